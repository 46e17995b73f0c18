pool "scripts" {
  mpm = "prefork"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "scripts"
    static {}
  }
}
