gateway {
  storage "redis" {
    password      = env("STORAGE_PASSWORD", "")
    password_file = "/etc/gateway/password"
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
