pool "php" {
  mpm             = "prefork"
  pm.max_children = 10
  php {}
}
