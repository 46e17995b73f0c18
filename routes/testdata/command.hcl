pool "php" {
  mpm = "prefork"
  php {
    command = "php-cgi -q"
  }
}
pool "f" {
  mpm = "prefork"
  fastcgi {
    command = [""]
  }
}
pool "g" {
  mpm = "prefork"
  fastcgi {
    command = []
  }
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
site "b.example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/f" {
    pool = "f"
  }
  route "/g" {
    pool = "g"
  }
}
