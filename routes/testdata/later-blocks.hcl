pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/api/*" {
    pool = "edge"
    proxy {
      to = ["http://127.0.0.1:9000"]
    }
    buffer = false
  }
}
