pool "edge" {
  mpm = "event"
}
pool "old" {
  mpm = "prefork"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/api/*" {
    pool = "edge"
    fastcgi {
      to   = "http://127.0.0.1:9000"
      root = "www"
    }
    rewrite = true
  }
  route "*.php" {
    pool = "old"
    fastcgi {
      to = "127.0.0.1:9000"
    }
  }
}
