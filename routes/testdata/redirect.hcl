pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    redirect {
      to = "https://{hots}{uri}"
      status = 200
    }
  }
}
site "b.example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/*" {
    pool = "edge"
    redirect {
      to = ""
    }
  }
}
