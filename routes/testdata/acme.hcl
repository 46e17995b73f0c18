tls {
  email = "ops"
  ca = ["http://ca.example/dir", "letsencrypt", "letsencrypt"]
  challenges = ["http-1"]
  eab {
    key_id = "k"
    mac_key = "not base64!"
  }
  eab {
    ca = "https://other.example/dir"
    key_id = "k"
    mac_key = ""
  }
}
pool "edge" {
  mpm = "event"
}
site "a.example" "*.a.example" {
  listen = [":443"]
  tls {
    mode = "auto"
    key_type = "rsa"
  }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
site "b.example" {
  listen = ["unix:b.sock tls"]
  tls {
    dns {
      command = ["/hook"]
      resolvers = ["1.1.1.1"]
    }
    on_demand {}
  }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
site "c.example" {
  listen = ["unix:c.sock tls"]
  route "/*" {
    pool = "edge"
    respond {}
  }
}
site "d.example" {
  listen = [":443"]
  tls {
    dns {
      provider = "x"
      command = ["y"]
    }
    on_demand {
      ask = "ask"
      names = ["*"]
    }
  }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
site "e.example" {
  listen = [":443"]
  tls {
    mode = "internal"
    email = "a@b.example"
    dns {
      provider = "x"
      timeout = "1s"
      resolvers = "1.1.1.1"
    }
  }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
site "f.example" "localhost" {
  listen = [":443"]
  route "/*" {
    pool = "edge"
    respond {}
  }
}
site "g.example" {
  listen = [":443"]
  tls {
    challenges = "http-01"
  }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
