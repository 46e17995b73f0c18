gateway {
  access_log {
    path = "/var/log/gateway/access.log"
    keep = 3
  }
}
