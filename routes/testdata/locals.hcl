locals {
  a = local.b
  b = local.a
  c = nothing("x")
  d = file("missing.txt")
  public = "/srv/www"
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
  route "/a/*" {
    pool = "edge"
    root = local.publik
    redirect { to = "${path}" }
  }
  route "/*" {
    pool = "edge"
    respond { body = local.a.b }
  }
}
