pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]

  route "/*" {
    pool = "edge"
    rewrite "^/a" {
      to     = "/x"
      status = 403
      then   = "last"
    }
    respond {}
  }
}
