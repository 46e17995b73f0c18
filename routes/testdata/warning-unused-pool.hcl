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
    pool = "edge"
    static {}
  }
}
