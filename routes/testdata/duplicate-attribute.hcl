pool "php" {
  mpm = "prefork"
  start_servers = 1
  start_servers = 2
  max_spare = 3
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
