pool "php" {
  mpm = "prefork"
  php {
    command = ["php-cgi"]
  }
}
site "example.com" {
  listen = [":443"]
  root   = "/srv/www"
  tls {
    mode = "auto"
  }
  route "/*" {
    pool = "php"
  }
}
