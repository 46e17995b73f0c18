# Files over HTTPS, with a certificate of the gateway's own authority; plain HTTP leads there.

pool "edge" {
  mpm                 = "event"
  max_request_workers = 400
}

site "localhost" "127.0.0.1" {
  listen             = [env("LISTEN", ":8080"), "${env("LISTEN_TLS", ":8443")} tls"]
  root               = "public"
  keep_alive_timeout = "30s"
  tls { mode = "internal" }

  route "/old" {
    pool = "edge"
    redirect {
      to     = "/"
      status = 301
    }
  }
  route "/health" {
    pool = "edge"
    respond { body = "ok\n" }
  }
  route "/*" {
    pool = "edge"
    static {
      cache_control = "public, max-age=60"
    }
  }
}
