site "localhost" {
  tls {
    mode = "internal" }
}
