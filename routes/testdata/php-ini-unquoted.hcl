pool "php" {
  mpm = "prefork"
  php {
    ini = { session.save_path = "/tmp" }
  }
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "php"
  }
}
