pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  max_request_body = "12X"
  keep_alive_timeout = "0s"
  route "/*" {
    pool = "edge"
    static {}
  }
}
site "b.example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    max_request_body = "9999999999G"
    static {}
  }
}
site "c.example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    max_request_body = 0
    static {}
  }
}
