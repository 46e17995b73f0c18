pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  tls {
    redirct = false
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
gateway {
  log {
    lvel = "info"
  }
  acces_log {}
}
