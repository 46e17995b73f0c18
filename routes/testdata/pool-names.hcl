pool "" {
  mpm = "event"
}
pool "a b" {
  mpm = "event"
}
pool "../x" {
  mpm = "event"
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
