pool "edge" {
  mpm = "event"
  start_servers = 5
  user = "app"
  kill_after = "1s"
}
pool "php" {
  mpm = "prefork"
  threads_per_child = 5
  min_spare_threads = 5
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
  route "/p" {
    pool = "php"
  }
}
