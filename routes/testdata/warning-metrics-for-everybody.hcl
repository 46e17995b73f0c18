gateway {
  metrics { listen = ":9180" }
}
pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = ["127.0.0.1:8080"]
  route "/*" {
    pool = "edge"
    respond {}
  }
}
