pool "a" {
  mpm = "worker"
  wsgi {
    module = "shop/wsgi.py"
  }
}
pool "b" {
  mpm = "worker"
  wsgi {
    module = "../shop.py:app"
    python = ""
  }
}
pool "c" {
  mpm = "worker"
  wsgi {
    dir = ""
  }
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
