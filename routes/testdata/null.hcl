pool "edge" {
  mpm = "event"
  max_request_workers = null
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
