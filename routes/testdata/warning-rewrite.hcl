pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]

  route "/*" {
    pool = "edge"
    rewrite "^old/(.*)$" {
    to = "/new/$1"
  }
  rewrite "^a?/b" {
    to = "/c"
  }
  rewrite "^a|^/b" {
    to = "/c"
  }
  rewrite "^/a" {
      to     = "/x"
      status = 403
      then   = "last"
    }
    respond {}
  }
}
