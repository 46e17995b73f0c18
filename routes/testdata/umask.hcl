pool "a" {
  mpm   = "prefork"
  umask = 022
  php {}
}
pool "b" {
  mpm   = "prefork"
  umask = "088"
  php {}
}
pool "c" {
  mpm   = "prefork"
  umask = "1777"
  php {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/a" {
    pool = "a"
  }
  route "/b" {
    pool = "b"
  }
  route "/c" {
    pool = "c"
  }
}
