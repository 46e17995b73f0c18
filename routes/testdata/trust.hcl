gateway {
  trusted_proxies = ["10.0.0.1/8", "nginx", "::ffff:192.0.2.1", "fe80::1%eth0", "192.0.2.1", "unix"]
}
pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80 proxy", ":81 proxy_protocol", ":82 tls h2c"]
  route "/*" {
    pool = "edge"
    respond {
    }
  }
}
site "example.org" {
  listen = [":81"]
  route "/*" {
    pool = "edge"
    respond {
    }
  }
}
