pool "php" {
  mpm          = "prefork"
  spawn        = "on_demand"
  idle_timeout = "0s"
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/php" {
    pool = "php"
  }
}
