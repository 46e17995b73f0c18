pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  tls {
    mode = "internal"
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
site "b.example.com" {
  listen = [":80"]
  root   = "/srv/www"
  tls {
    certificate = "a.pem"
    key = "a.key"
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
