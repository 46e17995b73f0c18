pool "php" {
  mpm                    = "prefork"
  StartServers           = 4
  MaxRequestWorkers      = 20
  MaxConnectionsPerChild = 100
  MaxRequestsPerChlid    = 100
  pm                     = "dynamic"
  max_children           = 10
  process_idle_timeout   = "10s"
  request-timeout        = "10s"
  FcgidMaxProcesses      = 10
  RLimitCPU              = 10
  processes              = 10
  php {}
}

site "localhost" {
  listen = ["127.0.0.1:8080"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
