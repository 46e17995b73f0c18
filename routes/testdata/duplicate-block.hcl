gateway {}
gateway {}
pool "php" {
  mpm = "prefork"
  queue {}
  queue {}
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
