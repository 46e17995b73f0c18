pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80 proxy_protocol"]
  route "/*" {
    pool = "edge"
    respond {
    }
  }
}
