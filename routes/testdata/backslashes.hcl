pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  route "/*" {
    pool = "edge"
    respond { body = "\.php$" }
  }
}
