gateway {
  metrics { listen = "127.0.0.1:9180" }
}
pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":443"]
  tls { challenges = ["http-01"] }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
