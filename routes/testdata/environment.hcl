pool "edge" {
  mpm = "event"
  max_request_workers = env("GATEWAY_TEST_MISSING")
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = env("GATEWAY_TEST_MISSING", "edg")
    static {}
  }
}
gateway {
  user = env()
  state_dir = evn("X")
  spool_dir = env("A", "B", "C")
}
