pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = ["unix:/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
