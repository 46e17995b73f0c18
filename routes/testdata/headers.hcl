pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  header {
    set    = { Content-Length = "1", "a b" = "x", X-A = "{hots}", x-a = "y", X-B = "a\nb" }
    remove = ["Date", "x y"]
  }
  header {
    always = true
  }
  request_header {
    set    = { X_User = "x", Host = "evil", X-Forwarded-For = "1.2.3.4" }
    always = true
  }
  error_page "200" "404" "6xx" {
    path = "/e/{path}"
  }
  error_page {}
  route "/*" {
    pool = "edge"
    respond {}
  }
}
