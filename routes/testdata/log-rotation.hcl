gateway {
  access_log {
    path     = "-"
    max_size = "100M"
    keep     = 0
  }
}
