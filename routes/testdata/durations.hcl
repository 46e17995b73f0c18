pool "php" {
  mpm = "prefork"
  request_timeout = 60
  kill_after = "2 seconds"
  queue {
    timeout = "-5s"
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
gateway {
  grace_period = "9999999999h"
}
