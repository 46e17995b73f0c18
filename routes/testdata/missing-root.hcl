pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  route "/*" {
    pool = "edge"
    static {}
  }
}
pool "php" {
  mpm = "prefork"
  php {}
}
site "b.example.com" {
  listen = [":80"]
  route "*.php" {
    pool = "php"
  }
}
