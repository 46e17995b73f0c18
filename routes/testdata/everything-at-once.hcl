gateway {
  grace_period = 30
}
pool "php" {
  mpm = "prefrk"
  max_clients = "lots"
  wsgi {}
  php {
    comand = ["php-cgi"]
  }
}
site "example.com" {
  listen = [":80", ":443"]
  rooot = "/srv"
  route "*.php" {
    pool = "phpp"
  }
  route "/a*" {
    pool = "php"
  }
}
