pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/none/*" {
    pool = "edge"
    proxy {}
  }
  route "/empty/*" {
    pool = "edge"
    proxy {
      to = []
    }
  }
  route "/text/*" {
    pool = "edge"
    proxy {
      to = "http://127.0.0.1:9000"
    }
  }
  route "/api/*" {
    pool = "edge"
    proxy {
      to = [
        "127.0.0.1:9000",
        "grpcs://127.0.0.1:9000",
        "ftp://127.0.0.1",
        "http://",
        "http://:9000",
        "http://a b",
        "http://root:secret@127.0.0.1:9000",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:9000/?q=1",
        "http://127.0.0.1:9000/a/../b",
        "unix:",
        "unix:/0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678.sock",
      ]
    }
  }
  route "/balance/*" {
    pool = "edge"
    proxy {
      to      = ["http://a:1 weight=0", "http://b:1 weight", "http://c:1 backups"]
      balance = "hash:cookie"
    }
  }
  route "/backups/*" {
    pool = "edge"
    proxy {
      to             = ["http://a:1 backup", "http://b:1 weight=2 backup"]
      balance        = "random"
      proxy_protocol = "v3"
      health {
        uri    = "health"
        status = 99
      }
    }
  }
  route "/grpc/*" {
    pool = "edge"
    proxy {
      to             = ["h2c://127.0.0.1:50051"]
      proxy_protocol = "v2"
    }
  }
  route "/plain/*" {
    pool = "edge"
    proxy {
      to            = ["http://127.0.0.1:9000"]
      preserve_host = true
      host          = "app.internal"
      tls {
        certificate = "client.crt"
      }
    }
  }
  route "/any/*" {
    pool = "edge"
    proxy {
      to   = ["h2://127.0.0.1:9000"]
      host = "http://app.internal"
      tls {
        ca     = "ca.pem"
        verify = false
      }
    }
  }
  route "/unknown/*" {
    pool = "edge"
    proxy {
      to = ["https://127.0.0.1:9000"]
      tls {
        verify = false
      }
    }
  }
}
