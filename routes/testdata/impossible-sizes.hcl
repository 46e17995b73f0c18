pool "php" {
  mpm = "prefork"
  start_servers = -1
  max_request_workers = 0
  server_limit = 9999999
  max_requests_per_child = -4
  min_spare_servers = 1e30
  queue {
    length = -1
  }
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
