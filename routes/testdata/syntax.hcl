pool "edge" {
  mpm = "event"

site "example.com" {
  listen = [":80"
}
