pool "php" {
  mpm = "prefork"
  php {}
  session_limit {
    cookie = "PHP SESSION"
    max    = 0
  }
}
pool "edge" {
  mpm = "event"
  session_limit {
    cookies = ["a"]
  }
}
site "localhost" {
  listen = ["127.0.0.1:8080"]
  root   = "/srv/www"
  route "*.php" { pool = "php" }
  route "/*" {
    pool = "edge"
    static {}
  }
}
