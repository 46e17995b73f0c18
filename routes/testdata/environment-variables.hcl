pool "php" {
  mpm = "prefork"
  php {
    env = {
      PHP_FCGI_CHILDREN = 4
      PHP_FCGI_MAX_REQUESTS = 500
      "A=B" = "x"
      "1A" = "x"
    }
  }
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
