pool "edge" {
  mpm = "event"
}
site "example.com" "localhost" {
  listen = [":443"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
site "b.example.com" {
  listen = [":443"]
  root   = "/srv/www"
  tls {
    mode = "off"
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
