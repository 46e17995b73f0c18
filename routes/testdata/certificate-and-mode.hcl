pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":443"]
  root   = "/srv/www"
  tls {
    mode = "internal"
    certificate = "a.pem"
    key = "a.key"
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
