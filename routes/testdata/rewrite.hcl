pool "edge" {
  mpm = "event"
}
site "example.com" {
  listen = [":80"]

  rewrite "^/a(?!b)" {
    to = "/x"
  }
  rewrite "^/(.*)\\1$" {
    to = "/x"
  }
  rewrite "^/(a" {
    to = "/x"
  }
  rewrite "^/a(?<=x)[(?=]*+" {
    to = "/x"
  }
  rewrite "^/(?<host>a)" {
    to = "/{2}/{uri}"
    when {
      host   = "(?>a)"
      header = { "a b" = "x" }
    }
    not {}
  }
  rewrite "^/c" {
    to = "https://b.example/"
  }
  rewrite "^/d" {
    to     = "//b.example/"
    status = 301
  }
  rewrite "^/e" {
    to     = "/x"
    status = 200
  }
  rewrite "^/e" {
    to = "?a=b"
  }
  rewrite "^/e" {
    to = ""
  }
  rewrite "^/f" {
    status = 302
  }
  rewrite "^/g" {
    when {
      file      = "{path}?x"
      remote_ip = ["10.0.0.1/8", "localhost"]
      methods   = ["get"]
      scheme    = "ftp"
      cookies   = { a = "b" }
    }
  }
  rewrite "^/h" {
    to           = "x"
    append_query = true
    then         = "stop"
  }
  rewrite {
    to = "/x{path"
  }
  route "/*" {
    pool = "edge"
    respond {}
  }
}
