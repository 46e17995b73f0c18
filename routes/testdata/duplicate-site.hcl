pool "edge" {
  mpm = "event"
}
site "example.com" "www.example.com" "Example.COM." {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
site "www.example.com" {
  listen = [":80", ":81"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
site "www.example.com" {
  listen = [":82"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
