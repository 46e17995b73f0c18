pool "php" {
  mpm = "prefork"
  php {
    share_opcache = true
  }
}
site "example.com" {
  listen = [":443"]
  root   = "/srv/www"
  tls {
    mode = "auto"
  }
  route "/*" {
    pool = "php"
  }
}
