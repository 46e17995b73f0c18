gateway {
  storage "redis" {
    path     = "/srv/shared"
    address  = "redis.internal"
    username = "gateway"
    prefix   = "my keys"
    timeout  = "0s"
    database = -1
    tls {
      certificate = "client.crt"
    }
  }
}
pool "edge" {
  mpm = "event"
}
site "localhost" {
  listen = ["127.0.0.1:8080"]
  route "/*" {
    pool = "edge"
    respond {}
  }
}
