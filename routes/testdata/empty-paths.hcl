gateway {
  runtime_dir = ""
}
pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root = ""
  route "/*" {
    pool = "edge"
    static {}
  }
}
