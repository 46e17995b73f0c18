pool "edge" {
  mpm = "event"
}
pool "php" {
  mpm = "prefork"
  php {
    ini = { for name in ["memory limit"] : name => 1 }
    env = { for name in ["A"] : name => [name] }
  }
}
site "example.com" {
  listen = [for port in ["80", "http"] : ":${port}"]
  root   = "/srv/www"
  index  = [for name in ["a.html", 5] : name]

  route "*.php" {
    pool = "php"
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
