pool "php" {
  mpm = "prefork"
  php {
    env = {
      GOOD = "x"
      NESTED = ["x"]
      NOTHING = null
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
