pool "php" {
  mpm = "worker"
  threads_per_child = 10
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
