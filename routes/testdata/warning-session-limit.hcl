pool "php" {
  mpm                 = "prefork"
  max_request_workers = 4
  session_limit { max = 4 }
  php {}
}
site "localhost" {
  listen = ["127.0.0.1:8080"]
  root   = "/srv/www"
  route "*.php" { pool = "php" }
}
