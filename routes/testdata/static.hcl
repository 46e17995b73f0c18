pool "edge" {
  mpm = "event"
}
site "localhost" {
  listen = ["127.0.0.1:8080"]
  root   = "/srv/www"
  compress {
    codings  = ["gzip", "deflate"]
    types    = ["text", "text/*", "*/*", "Text/HTML"]
    min_size = "a lot"
    level    = 11
  }
  route "/a/*" {
    pool = "edge"
    static {
      cache_by_suffix = { ".css" = "", "a/b" = "no-cache" }
      types           = { "" = "text/plain", "foo" = "foo", ".foo" = "text/x-foo" }
      precompressed   = ["brotli"]
      listing         = "html"
      hide            = ["[", "a/b", "*.bak"]
    }
  }
  route "/*" {
    pool = "edge"
    static {
      immutable = true
    }
    compress = true
  }
}
