pool "edge" {
  mpm = "event"
}
site "*" "a.*.com" "example.com:80" "https://example.com" "bücher.example" "a b.com" "" "a..b" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    static {}
  }
}
