pool "f" {
  mpm = "event"
  fastcgi {
    command = ["/usr/bin/f"]
  }
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "f"
  }
}
