pool "edge" {
  mpm = "event"
}
}
