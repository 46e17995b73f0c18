pool {
  mpm = "event"
}
site {
  listen = [":80"]
  root = "/srv/www"
  route {
    pool = "edge"
    static {}
  }
}
pool "edge" {
  mpm = "event"
}
