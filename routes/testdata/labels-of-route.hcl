pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" "/b" {
    pool = "edge"
    static {}
  }
}
