pool "php" {
  php {}
}
pool "other" {
  mpm = "prefork"
  fastcgi {}
}
site "example.com" {
  route "/*" {
  }
  route "/r" {
    pool = "php"
    redirect {}
  }
}
