gateway {
  storage "rediss" {
    address = "redis.internal:6379"
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
