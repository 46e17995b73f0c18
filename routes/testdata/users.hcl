gateway {
  user = ""
}
pool "php" {
  mpm = "prefork"
  user = "app:app"
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
