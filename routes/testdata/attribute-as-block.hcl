pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen {}
  root = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
