# The pools of the stress tests. When nobody wants anything each is empty, or has a number of children that is known, so that nothing
# else may be left.

gateway {
  runtime_dir  = env("RUNTIME")
  grace_period = "5s"
}

pool "edge" {
  mpm = "event"
}

pool "rude" {
  mpm                 = "prefork"
  spawn               = "ondemand"
  idle_timeout        = "1s"
  max_request_workers = 4
  request_timeout     = "20s"
  fastcgi {
    command = ["python3", "-I", "-S", "program.py"]
    env     = { MARKS = env("MARKS") }
  }
}

pool "stubborn" {
  mpm                 = "prefork"
  spawn               = "ondemand"
  idle_timeout        = "1s"
  max_request_workers = 4
  request_timeout     = "500ms"
  kill_after          = "200ms"
  fastcgi {
    command = ["python3", "-I", "-S", "program.py"]
  }
}

pool "killed" {
  mpm                 = "prefork"
  spawn               = "ondemand"
  idle_timeout        = "1s"
  max_request_workers = 6
  retry               = true
  fastcgi {
    command = ["python3", "-I", "-S", "program.py"]
    env     = { MARKS = env("MARKS") }
  }
}

pool "small" {
  mpm                 = "prefork"
  spawn               = "ondemand"
  idle_timeout        = "1s"
  max_request_workers = 2
  queue {
    length = 20
  }
  fastcgi {
    command = [env("QUICK")]
    env     = { MARKS = env("MARKS") }
  }
}

pool "other" {
  mpm                 = "prefork"
  spawn               = "ondemand"
  idle_timeout        = "1s"
  max_request_workers = 2
  fastcgi {
    command = [env("QUICK")]
  }
}

pool "crowd" {
  mpm                 = "prefork"
  spawn               = "ondemand"
  idle_timeout        = "1s"
  max_request_workers = 200
  fastcgi {
    command = [env("QUICK")]
    env     = { MARKS = env("MARKS") }
  }
}

# Each child too many leaves after another second.
pool "spare" {
  mpm                 = "prefork"
  start_servers       = 2
  min_spare_servers   = 1
  max_spare_servers   = 2
  max_request_workers = 8
  fastcgi {
    command = [env("QUICK")]
    env     = { MARKS = env("MARKS") }
  }
}

pool "scripts" {
  mpm                 = "prefork"
  spawn               = "static"
  max_request_workers = 1
}

pool "once" {
  mpm                    = "prefork"
  spawn                  = "ondemand"
  idle_timeout           = "1s"
  max_request_workers    = 6
  max_requests_per_child = 1
  fastcgi {
    command = [env("QUICK")]
  }
}

pool "php" {
  mpm                    = "prefork"
  spawn                  = "ondemand"
  idle_timeout           = "1s"
  max_request_workers    = 6
  max_requests_per_child = 1
  php {
    ini = { "opcache.enable" = "0" }
  }
}

site "localhost" {
  listen = [env("ADDR")]
  root   = "www"

  route "/rude/*" {
    pool = "rude"
  }
  route "/stubborn/*" {
    pool = "stubborn"
  }
  route "/killed/*" {
    pool = "killed"
  }
  route "/small/*" {
    pool = "small"
  }
  route "/other/*" {
    pool = "other"
  }
  route "/crowd/*" {
    pool = "crowd"
  }
  route "/spare/*" {
    pool = "spare"
  }
  route "/cgi-bin/*" {
    pool = "scripts"
    cgi {
      root = "cgi-bin"
    }
  }
  route "/once/*" {
    pool = "once"
  }
  route "*.php" {
    pool = "php"
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
