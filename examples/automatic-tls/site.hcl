# A site whose certificate comes from Let's Encrypt by itself. Its names must lead to this machine, on ports 80 and 443.

tls {
  email = "ops@example.com"
  ca    = env("CA", "letsencrypt")   # "letsencrypt-staging" is for trying things out: no browser trusts it
}

pool "edge" {
  mpm = "event"
}

site "example.com" "www.example.com" {
  listen = [env("LISTEN", ":80"), "${env("LISTEN_TLS", ":443")} tls"]
  root   = "public"
  tls { mode = "auto" }              # so it would be without this line, too

  route "/*" {
    pool = "edge"
    static {}
  }
}
