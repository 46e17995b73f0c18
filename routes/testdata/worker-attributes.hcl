pool "shop" {
  mpm               = "worker"
  min_spare_servers = 2
  max_spare_servers = 4
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
