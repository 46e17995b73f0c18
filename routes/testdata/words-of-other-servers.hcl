pool "php" {
  mpm = "prefork"
  php {}
}
site "localhost" {
  listen = ["127.0.0.1:8080"]
  root   = /srv/www
  error_page 404 { path = "/404.html" }
  ErrorDocument 404 /404.html
  Options -Indexes
  Header set X-Frame-Options DENY
  allow 10.0.0.0/8
  compress on
  route "/x" { redirect { to = "/y" } }
  tls {
    mode = "internal" }
  route /x/* {
    pool = "php"
  }
}
