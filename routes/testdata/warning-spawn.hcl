pool "a" {
  mpm           = "prefork"
  spawn         = "ondemand"
  start_servers = 3
  php {}
}
pool "b" {
  mpm           = "prefork"
  spawn         = "static"
  start_servers = 3
  idle_timeout  = "1m"
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
}
