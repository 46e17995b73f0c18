pool "php" {
  mpm                 = "prefork"
  max_request_workers = 1000000
  start_servers       = 300
  rlimit {
    nofile = 100
  }
  php { share_opcache = true }
}

pool "app" {
  mpm               = "worker"
  server_limit      = 1000000
  threads_per_child = 100000
  start_servers     = 300
  wsgi {
    module      = "app"
    thread_safe = false
  }
}

pool "edge" {
  mpm = "event"
}

site "localhost" {
  listen = ["127.0.0.1:8080"]
  root   = "/srv/www"
  route "/old/*" {
    pool = "edge"
    rewrite {}
  }
  route "/app/*" {
    pool = "app"
  }
  route "/*" {
    pool = "php"
  }
}
