gateway {
  log {
    level = "warning"
    format = "jsn"
  }
  access_log {
    format = "combned"
  }
}
pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
