pool "a" {
  mpm                 = "worker"
  threads_per_child   = 100
  wsgi {
    module = "app:app"
  }
}
pool "b" {
  mpm                 = "worker"
  max_request_workers = 110
  wsgi {
    module = "app:app"
  }
}
pool "c" {
  mpm                 = "worker"
  max_request_workers = 10
  wsgi {
    module = "app:app"
  }
}
pool "d" {
  mpm                 = "worker"
  max_request_workers = 1000
  wsgi {
    module = "app:app"
  }
}
pool "e" {
  mpm                 = "worker"
  server_limit        = 4
  start_servers       = 9
  wsgi {
    module = "app:app"
  }
}
pool "f" {
  mpm                 = "worker"
  min_spare_threads   = 240
  max_spare_threads   = 250
  wsgi {
    module = "app:app"
  }
}
pool "g" {
  mpm                 = "worker"
  thread_limit        = 10
  threads_per_child   = 12
  min_spare_threads   = 500
  wsgi {
    module = "app:app"
  }
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
  route "/c" {
    pool = "c"
  }
  route "/d" {
    pool = "d"
  }
  route "/e" {
    pool = "e"
  }
  route "/f" {
    pool = "f"
  }
  route "/g" {
    pool = "g"
  }
}
