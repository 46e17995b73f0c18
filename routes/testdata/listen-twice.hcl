pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80", ":80", "127.0.0.1:80", "127.0.0.1:8080 tls", "[::1]:8080", ":82 h2c"]
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
  listen = ["127.0.0.1:8080", ":82"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
