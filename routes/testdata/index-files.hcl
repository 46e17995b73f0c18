pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  index = "index.php"
  route "/*" {
    pool = "edge"
    static {
      index = ["index.html", "../x", ""]
    }
  }
}
