pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen  = [":80"]
  allow   = ["10.0.0.0/8"]
  satisfy = "any"
  route "/*" {
    pool = "edge"
    respond {}
  }
}
