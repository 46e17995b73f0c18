pool "shop" {
  mpm               = "worker"
  threads_per_child = 0
  thread_limit      = 30000
  min_spare_threads = -1
  wsgi {
    module = "shop.wsgi:application"
  }
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/shop" {
    pool = "shop"
  }
}
