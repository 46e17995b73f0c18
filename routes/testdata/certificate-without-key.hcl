pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":443"]
  root   = "/srv/www"
  tls {
    certificate = "a.pem"
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
site "b.example.com" {
  listen = [":443"]
  root   = "/srv/www"
  tls {
    key = "a.key"
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
