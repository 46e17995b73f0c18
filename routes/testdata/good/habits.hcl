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

  route "/*" {
    pool = "edge"
    rewrite "^/go$" {
      to     = "https://{host}/gone"
      status = 301
    }
    static {}
  }
}
