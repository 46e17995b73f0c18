gateway {
  log { level = "info" }
}

# Static files: executors in the front.
pool "edge" {
  mpm = "event"
}

# CGI scripts: child processes, one request at a time each.
pool "scripts" {
  mpm                 = "prefork"
  start_servers       = 1
  min_spare_servers   = 1
  max_spare_servers   = 2
  max_request_workers = 4
}
{{ if .PHP }}
# PHP: php-cgi children, one request at a time each.
pool "php" {
  mpm                 = "prefork"
  start_servers       = 2
  min_spare_servers   = 1
  max_spare_servers   = 4
  max_request_workers = 8
  php {
    ini = { memory_limit = "64M" }
  }
}
{{ end }}
site "localhost" "127.0.0.1" {
  listen = ["{{ .HTTP }}", "{{ .HTTPS }} tls"]
  root   = "{{ .Dir }}/www"
  tls {
    mode     = "internal"
    redirect = false
  }
  route "/cgi-bin/*" {
    pool = "scripts"
    cgi { root = "{{ .Dir }}/cgi-bin" }
  }
{{ if .PHP }}
  route "*.php" { pool = "php" }
{{ end }}
  route "/*" {
    pool = "edge"
    static { index = ["index.html"] }
  }
}
