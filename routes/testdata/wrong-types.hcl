pool "php" {
  mpm = "prefork"
  start_servers = "many"
  max_request_workers = [5]
  user = 33
  request_timeout = true
  queue {
    header = "perhaps"
  }
  max_spare_servers = 2.5
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
gateway {
  log {
    level = ["info"]
  }
}
