gateway {
  user        = "www-data"
  runtime_dir = "{{.Dir}}/run"
  state_dir   = "{{.Dir}}/state"
  log {
    level = "warn"
  }
}

pool "edge" {
  mpm = "event"
}

pool "scripts" {
  mpm                 = "prefork"
  start_servers       = 1
  max_request_workers = 16
}
{{- if .PHP}}

pool "php" {
  mpm                 = "prefork"
  spawn               = "static"
  max_request_workers = 8
  php {
    command = ["{{.PHP}}"]
  }
}
{{- end}}
{{- if .WSGI}}

pool "app" {
  mpm                 = "worker"
  spawn               = "static"
  server_limit        = 2
  threads_per_child   = 8
  max_request_workers = 16
  wsgi {
    module = "hello:application"
    dir    = "{{.Dir}}/app"
    python = "{{.WSGI}}"
  }
}
{{- end}}

site "localhost" "127.0.0.1" {
  listen             = ["{{.Plain}}", "{{.TLS}} tls"]
  root               = "{{.Dir}}/www"
  keep_alive_timeout = "600s"
  tls {
    certificate = "{{.Dir}}/tls.crt"
    key         = "{{.Dir}}/tls.key"
    redirect    = false
  }
  route "/cgi-bin/*" {
    pool = "scripts"
    cgi {
      root = "{{.Dir}}/cgi"
    }
  }
  route "/proxied/*" {
    pool = "edge"
    proxy {
      to = ["http://{{.Upstream}}"]
    }
  }
{{- if .PHP}}
  route "/page.php" {
    pool = "php"
    compress {
      codings = ["gzip"]
      level   = 5
    }
  }
  route "*.php" {
    pool = "php"
  }
{{- end}}
{{- if .WSGI}}
  route "/wsgi/*" {
    pool = "app"
  }
{{- end}}
  route "/*" {
    pool = "edge"
    static {}
  }
}
