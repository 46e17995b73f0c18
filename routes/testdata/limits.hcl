pool "a" {
  mpm              = "prefork"
  nice             = 20
  group            = ""
  dir              = ""
  max_child_memory = 128
  max_child_age    = "0s"
  env_pass         = ["HOME", "not-a-name", "HOME", "LISTEN_FDS"]
  only_if_waiting  = 5
  queue {
    length = 4
  }
  rlimit {
    nofile = 3
    as     = "1M"
    cpu    = "10ms"
    nproc  = 0
    stack  = "8M"
  }
  cgroup {
    memory_max       = "1G"
    child_memory_max = "2G"
    cpu_weight       = 20000
    pids_max         = 0
  }
  php {}
}
pool "b" {
  mpm  = "prefork"
  nice = -21
  php {}
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
}
