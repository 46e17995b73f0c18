pool "php" {
  mpm              = "prefork"
  pm.start_servers = 10
  php {}
}
