pool "php" {
  mpm = "prefork"
  php {
    ini = {
      memory_limit = "128M\nextension=evil.so"
      "cgi.fix_pathinfo" = 1
      "a b" = 1
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
