pool "php" {
  mpm = "prefork"
  max_request_workers = 10
  max_clients = 20
  max_connections_per_child = 4
  max_requests_per_child = 5
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
