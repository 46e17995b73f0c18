pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = ["80", ":http", ":0", ":70000", "localhost:8080", "*:80", "unix:", "127.0.0.1", ":81 ssl", "", "::1:80", "example.com:80", ":443 h2c"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
