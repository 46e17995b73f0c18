pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/cgi-bin/*" {
    pool = "edge"
    cgi {
      root = "/srv/cgi"
    }
  }
}
