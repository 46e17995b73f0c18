# The pools of the stress tests. Each is empty when nobody wants anything, so that nothing of it may be left.

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
    command = ["python3", "-I", "-S", "program.py"]
    env     = { MARKS = env("MARKS") }
  }
}

pool "crowd" {
  mpm                 = "prefork"
  spawn               = "ondemand"
  idle_timeout        = "1s"
  max_request_workers = 100
  fastcgi {
    command = ["python3", "-I", "-S", "program.py"]
    env     = { MARKS = env("MARKS") }
  }
}

pool "once" {
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
  route "/crowd/*" {
    pool = "crowd"
  }
  route "*.php" {
    pool = "once"
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
