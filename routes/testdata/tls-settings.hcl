pool "edge" {
  mpm = "event"
}
tls {
  hsts {
    preload = true
  }
}
site "a.example.com" {
  listen = [":443"]
  root   = "/srv/www"
  tls {
    certificate = ["a.pem", "b.pem"]
    key         = "a.key"
    min_version = "1.1"
    client_auth {
      mode = "maybe"
    }
    hsts {
      include_subdomains = true
      preload            = true
      max_age            = "24h"
    }
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
site "b.example.com" {
  listen = [":80"]
  root   = "/srv/www"
  tls {
    min_version = "1.3"
    hsts {}
    client_auth {
      ca = "ca.pem"
    }
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
