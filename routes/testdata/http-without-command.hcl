pool "node" {
  mpm = "worker"
  http {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/node" {
    pool = "node"
  }
}
