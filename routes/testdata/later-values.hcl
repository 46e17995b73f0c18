pool "app" {
  mpm = "worker"
}
pool "php" {
  mpm = "prefork"
  spawn = "static"
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
  route "/app" {
    pool = "app"
    static {}
  }
}
