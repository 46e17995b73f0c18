pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/img/*" {
    pool         = "edge"
    root         = "/srv/pictures"
    strip_prefix = true
    try_files    = ["{path}", "/{host}/a", "/img/{host}", "/none.png", "/index.html"]
    static {}
  }
  route "/img" {
    pool = "edge"
    static {}
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
