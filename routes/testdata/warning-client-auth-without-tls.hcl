pool "edge" {
  mpm = "event"
}
site "a.example.com" {
  listen = [":80", "127.0.0.1:81", ":443"]
  root   = "/srv/www"
  tls {
    client_auth {
      ca = "ca.pem"
    }
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
