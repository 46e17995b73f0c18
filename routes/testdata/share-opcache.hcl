pool "cgi" {
  mpm = "prefork"
  php {
    command       = ["php-cgi8.2"]
    share_opcache = true
  }
}
pool "many" {
  mpm                 = "prefork"
  max_request_workers = 2000
  php {
    share_opcache = true
  }
}
pool "files" {
  mpm = "prefork"
  rlimit {
    nofile = 512
  }
  php {
    share_opcache = true
  }
}
pool "threads" {
  mpm = "worker"
  php {
    share_opcache = true
    env           = { FPM_SOCKETS = "x" }
  }
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/cgi/*" {
    pool = "cgi"
  }
  route "/many/*" {
    pool = "many"
  }
  route "/files/*" {
    pool = "files"
  }
  route "*.php" {
    pool = "threads"
  }
}
