pool "scripts" {
  mpm = "prefork"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "scripts"
    cgi {
      root = "/srv/cgi"
      script = "/srv/x.cgi"
    }
  }
}
site "b.example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "scripts"
    cgi {}
  }
}
