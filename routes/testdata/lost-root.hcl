pool "php" {
  mpm = "prefork"
  php {}
}
site "localhost" {
  listen = ["127.0.0.1:8080"]
  root   = "${HOME}/www"
  rewrite "" {
    to = "/index.php"
    not { file = "{path}" }
  }
  route "*.php" { pool = "php" }
}
