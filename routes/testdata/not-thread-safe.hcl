pool "fcgi" {
  mpm = "worker"
  fastcgi {
    command     = ["app.fcgi"]
    thread_safe = false
  }
}
pool "shop" {
  mpm               = "worker"
  threads_per_child = 4
  wsgi {
    module      = "shop.wsgi:application"
    thread_safe = false
  }
}
pool "node" {
  mpm = "worker"
  http {
    command     = ["node", "server.js"]
    thread_safe = false
  }
}
pool "php" {
  mpm = "prefork"
  php {
    thread_safe = true
  }
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/fcgi" {
    pool = "fcgi"
  }
  route "/shop" {
    pool = "shop"
  }
  route "/node" {
    pool = "node"
  }
  route "/php" {
    pool = "php"
  }
}
