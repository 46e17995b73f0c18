pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    respond {
      status = 99
      content_type = "text/plain\r\nX: y"
    }
  }
}
site "b.example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    respond {
      status = 204
      body = "x"
    }
  }
}
