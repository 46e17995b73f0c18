pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    try_files = ["{path}", "index.php", "{file}", "/index.php?q={uri}", "=404", "/a#b", "/x{path", "/{uri}"]
    static {}
  }
}
