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
site "c.example.com" {
  listen = [":80"]
  route "/a" {
    pool = "edge"
    redirect { to = "{header.X-To}" }
  }
  route "/b" {
    pool = "edge"
    redirect { to = "?{query}" }
  }
  route "/c" {
    pool = "edge"
    redirect { to = "javascript:{query}" }
  }
}
