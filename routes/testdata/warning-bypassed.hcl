pool "edge" {
  mpm = "event"
}
pool "php" {
  mpm = "prefork"
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/admin/open/*" {
    pool = "edge"
    static {}
  }
  route "/edit/*" {
    pool    = "edge"
    methods = ["POST"]
    deny    = ["192.0.2.0/24"]
    static {}
  }
  route "*.css" {
    pool = "edge"
    static {}
  }
  route "*.php" { pool = "php" }
  route "/admin/*" {
    pool = "edge"
    auth_basic { file = "/srv/passwords" }
    static {}
  }
  route "/inside/*" {
    pool     = "edge"
    internal = true
    static {}
  }
  route "/open/*" {
    pool  = "edge"
    allow = ["all"]
    static {}
  }
  route "/edit/*" {
    pool    = "edge"
    methods = ["GET"]
    static {}
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
