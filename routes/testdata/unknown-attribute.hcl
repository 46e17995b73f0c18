pool "php" {
  mpm = "prefork"
  max_request_worker = 5
  start_server = 2
  zebra = 1
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
