locals {
  a = local.b
  b = local.a
  c = nothing("x")
  d = file("missing.txt")
}
locals "x" {
  a = 1
  e {}
}
pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [local.gone]
  root   = lokal.www
  route "/*" {
    pool = "edge"
    respond { body = local.a.b }
  }
}
