pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen  = [":80"]
  allow   = ["10.0.0.1/8", "all"]
  deny    = ["here", "::ffff:10.0.0.1", "fe80::1%eth0"]
  satisfy = "some"
  auth_basic {
    realm = "a \"b\""
  }
  rate_limit {
    rate = "10/s"
    key  = "{user}"
  }
  rate_limit {
    rate  = "0r/s"
    burst = -1
  }
  route "/*" {
    pool            = "edge"
    request_timeout = "0s"
    respond {}
  }
}
