pool "edge" {
  mpm = "event"
}

site "example.com" {
  listen = [":80"]
  root   = "/srv/www"

  rewrite "^/old/(.*)$" {
    to = "/new/{1}?from={path}"
    when {
      host      = "^www[.](?<domain>.+)$"
      remote_ip = ["10.0.0.0/8", "::1"]
      header    = { Referer = "^$" }
    }
    not {
      file = "{path}"
    }
  }

  header {
    set    = { X-Frame-Options = "DENY", X-Path = "{path}" }
    remove = ["X-Powered-By"]
    always = true
  }
  request_header {
    add = { X-Client = "{remote_ip}" }
  }
  error_page "404" "5xx" {
    path = "/errors/{status}.html"
  }
  deny = ["192.0.2.0/24"]
  rate_limit {
    rate  = "10r/s"
    burst = 20
    key   = "{cookie.session}"
  }

  route "/admin/*" {
    pool            = "edge"
    allow           = "10.0.0.0/8"
    satisfy         = "any"
    request_timeout = "5s"
    auth_basic {
      realm = "Members"
      file  = "/etc/gateway/htpasswd"
    }
    static {}
  }
  route "/*" {
    pool = "edge"
    rewrite "^/go$" {
      to     = "https://{host}/gone"
      status = 301
    }
    static {}
  }
}
