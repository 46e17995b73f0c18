pool "a" {
  mpm                 = "prefork"
  max_clients         = 8
  start_servers       = 20
  min_spare_servers   = 9
  max_spare_servers   = 3
  php {}
}
pool "b" {
  mpm                 = "prefork"
  server_limit        = 10
  max_request_workers = 50
  php {}
}
pool "c" {
  mpm               = "prefork"
  min_spare_servers = 20
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/a" {
    pool = "a"
  }
  route "/b" {
    pool = "b"
  }
  route "/c" {
    pool = "c"
  }
}
