pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "" {
    pool = "edge"
    respond {}
  }
  route "*" {
    pool = "edge"
    respond {}
  }
  route "a/*" {
    pool = "edge"
    respond {}
  }
  route "/a*" {
    pool = "edge"
    respond {}
  }
  route "/*/b" {
    pool = "edge"
    respond {}
  }
  route "/a//b" {
    pool = "edge"
    respond {}
  }
  route "/a/../b" {
    pool = "edge"
    respond {}
  }
  route "/a?x=1" {
    pool = "edge"
    respond {}
  }
  route "*php" {
    pool = "edge"
    respond {}
  }
  route "*." {
    pool = "edge"
    respond {}
  }
  route "*.a/b" {
    pool = "edge"
    respond {}
  }
  route "/a%20b" {
    pool = "edge"
    respond {}
  }
  route "*.%70hp" {
    pool = "edge"
    respond {}
  }
  route "/a\\b" {
    pool = "edge"
    respond {}
  }
  route "/a#b" {
    pool = "edge"
    respond {}
  }
  route "/a\nb" {
    pool = "edge"
    respond {}
  }
}
