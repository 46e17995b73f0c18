pool "edge" {
  mpm = event
}
pool "php" {
  mpm = prefork
  user = local.user
  php {
    command = [php-cgi, "-q"]
  }
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
  route "*.php" {
    pool = php
  }
}
