pool "edge" {
  mpm = "event"
}
pool "scripts" {
  mpm = "prefork"
}
pool "app" {
  mpm = "prefork"
  wsgi { module = "shop:app" }
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/one" {
    pool         = "edge"
    strip_prefix = true
    static {}
  }
  route "*.css" {
    pool         = "edge"
    strip_prefix = true
    static {}
  }
  route "/cgi-bin/*" {
    pool         = "scripts"
    strip_prefix = true
    cgi { root = "/usr/lib/cgi-bin" }
  }
  route "/go/*" {
    pool         = "edge"
    strip_prefix = true
    redirect { to = "/" }
  }
  route "/whole/*" {
    pool         = "edge"
    strip_prefix = true
    fastcgi {
      to    = "127.0.0.1:9000"
      files = false
    }
  }
  route "/shop/*" {
    pool         = "app"
    strip_prefix = true
  }
  route "/twice/*" {
    pool         = "edge"
    strip_prefix = "yes"
    static {}
  }
  route "/*" {
    pool         = "edge"
    strip_prefix = true
    static {}
  }
}
