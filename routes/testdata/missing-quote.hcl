pool "edge" {
  mpm = "event
}
site "localhost" {
  listen = ["127.0.0.1:8080"]
  route "/*" { pool = "edge" }
}
