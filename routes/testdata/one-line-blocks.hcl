site "localhost" {
  rewrite "^/a$" { to = "/b" status = 301 }
}
