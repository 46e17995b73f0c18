gateway {
  user        = "www-data"         # the front's user; ignored with a warning when not root
  runtime_dir = "/run/gateway"     # admin socket and private child sockets, 0700
  state_dir   = "/var/lib/gateway" # certificates
  spool_dir   = "/var/tmp"
  grace_period = "30s"
  log {
    level  = "info"
    format = "console"             # or "json"
  }
  access_log {
    path   = "/var/log/gateway/access.log"   # "-" is stdout
    format = "combined"            # or "common", "json", a format string
  }
}

tls {                              # defaults for every site with TLS
  email = "ops@example.com"
}

pool "edge" {
  mpm                 = "event"
  max_request_workers = 400
}

pool "php" {
  mpm                    = "prefork"
  start_servers          = 5
  min_spare_servers      = 5
  max_spare_servers      = 10
  max_request_workers    = 150     # max_clients is accepted, the old Apache name
  max_requests_per_child = 4000    # 0: never
  request_timeout        = "60s"
  user                   = "app"
  queue {
    length  = 200
    timeout = "10s"
  }
  php {
    command = ["php-cgi"]
    ini     = { memory_limit = "128M" }
  }
}

pool "scripts" {
  mpm                 = "prefork"
  max_request_workers = 16
}

pool "app" {
  mpm               = "worker"
  start_servers     = 2
  threads_per_child = 25
  wsgi {
    module = "shop.wsgi:application"
    dir    = "/srv/shop"
  }
}

site "example.com" "www.example.com" {
  listen = [":80", ":443"]         # :443 is TLS; :80 redirects to it when the site has TLS
  root   = "/srv/legacy/public"
  tls {
    certificate = "example.com.pem"
    key         = "example.com.key"
  }

  route "/assets/*"  {
    pool = "edge"
    static { cache_control = "public, max-age=3600" }
  }
  route "/cgi-bin/*" {
    pool = "scripts"
    cgi { root = "/srv/legacy/cgi-bin" }
  }
  route "*.php" { pool = "php" }   # the pool says what runs
  route "/shop/*" { pool = "app" }
  route "/*" {
    pool      = "edge"
    try_files = ["{path}", "{path}/index.php", "/index.php"]
    static { index = ["index.html", "index.php"] }
  }
}
