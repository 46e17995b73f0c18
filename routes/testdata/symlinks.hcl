pool "edge" {
  mpm = "event"
}
site "localhost" {
  listen   = ["127.0.0.1:8080"]
  root     = "/srv/www"
  symlinks = "insid"
  route "/a/*" {
    pool     = "edge"
    symlinks = true
    static {}
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
