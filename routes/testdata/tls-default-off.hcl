tls {
  mode = "off"
}
pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = ["127.0.0.1:8443 tls"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
