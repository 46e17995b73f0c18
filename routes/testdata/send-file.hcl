pool "edge" {
  mpm = "event"
}
pool "php" {
  mpm = "prefork"
  php {}
}
site "localhost" {
  listen = ["127.0.0.1:8080"]
  root   = "/srv/www"
  route "/a.php" {
    pool = "php"
    send_file { pool = "edge" }
  }
  route "/b.php" {
    pool = "php"
    send_file {
      pool     = "php"
      roots    = ["/", ""]
      internal = { "protected" = "/srv/files", "/p/" = "/" }
    }
  }
  route "/c.php" {
    pool = "php"
    send_file {
      pool  = "egde"
      roots = "/srv/files"
    }
  }
  route "/d.php" {
    pool = "php"
    send_file { roots = "/srv/files" }
  }
  route "/e.php" {
    pool = "php"
    send_file {
      pool   = "edge"
      routes = true
    }
  }
  route "/*" {
    pool = "edge"
    static {}
    send_file {
      pool  = "edge"
      roots = ["/srv/files"]
    }
  }
}
