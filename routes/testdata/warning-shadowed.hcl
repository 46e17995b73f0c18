pool "edge" {
  mpm = "event"
}
pool "php" {
  mpm = "prefork"
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/a/*" {
    pool = "edge"
    static {}
  }
  route "/a/b" {
    pool = "edge"
    static {}
  }
  route "/a/b/*" {
    pool    = "edge"
    methods = ["GET"]
    static {}
  }
  route "*.php" {
    pool = "php"
  }
  route "/x.php" {
    pool = "php"
  }
  route "*.inc.php" {
    pool = "php"
  }
  route "/*" {
    pool    = "edge"
    methods = ["GET", "POST"]
    static {}
  }
  route "/get" {
    pool    = "edge"
    methods = ["GET"]
    static {}
  }
  route "/any" {
    pool = "edge"
    static {}
  }
  route "*.jpg" {
    pool    = "edge"
    methods = ["HEAD"]
    static {}
  }
  route "/any" {
    pool    = "edge"
    methods = ["PUT"]
    respond {}
  }
}
