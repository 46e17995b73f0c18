pool "edge" {
  mpm = "event"
}
