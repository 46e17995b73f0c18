gateway {
  storage "redis" {
    address = "redis.example"
  }
}
tls {
  mode = "auto"
}
pool "edge" {
  mpm = "event"
}
site "localhost" {
  listen = [":80", ":443"]
  route "/*" {
    pool = "edge"
    respond {}
  }
}
site "a.example" "legacy.test" {
  listen = [":80", ":443"]
  tls {
    mode = "auto"
  }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
site "b.test" {
  listen = [":80", ":443"]
  tls {
    ca = ["https://ca.corp.example/dir", "letsencrypt"]
  }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
