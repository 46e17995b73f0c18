pool "edge" {
  mpm          = "event"
  idle_timeout = 15s
}
