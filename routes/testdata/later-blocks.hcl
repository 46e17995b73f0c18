pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/api/*" {
    pool = "edge"
    fastcgi {
      to = "127.0.0.1:9000"
    }
    rewrite = true
  }
}
