pool "cli" {
  mpm = "prefork"
  php { command = ["php"] }
}

pool "versioned" {
  mpm = "prefork"
  php { command = ["/usr/bin/php8.2", "-n"] }
}

pool "cli_shared" {
  mpm = "prefork"
  php {
    command       = ["php"]
    share_opcache = true
  }
}

pool "fpm" {
  mpm = "prefork"
  php { command = ["/usr/sbin/php-fpm8.2"] }
}

pool "good" {
  mpm = "prefork"
  php { command = ["php-cgi8.2"] }
}

site "localhost" {
  listen = ["127.0.0.1:8080"]
  root   = "/srv/www"
  route "/a/*" { pool = "cli" }
  route "/b/*" { pool = "versioned" }
  route "/c/*" { pool = "cli_shared" }
  route "/d/*" { pool = "fpm" }
  route "/*" { pool = "good" }
}
