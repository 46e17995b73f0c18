pool "php" {
  mpm = "prefork"
  queue = { length = 5 }
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
