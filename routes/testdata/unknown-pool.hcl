pool "php" {
  mpm = "prefork"
  php {}
}
pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edgy"
    static {}
  }
}
site "b.example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "nothing-like-it"
    static {}
  }
}
