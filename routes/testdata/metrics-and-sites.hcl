gateway {
  metrics { listen = "127.0.0.1:9180" }
}
pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = ["127.0.0.1:9180", ":9180"]
  route "/*" {
    pool = "edge"
    respond {}
  }
}
