# Roundcube as Debian packages it, by HTTPS alone. What the package's .htaccess says for Apache is said here.

pool "edge" {
  mpm = "event"
}

pool "mail" {
  mpm                    = "prefork"
  start_servers          = 2
  min_spare_servers      = 2
  max_spare_servers      = 4
  max_request_workers    = 16
  max_requests_per_child = 1000
  request_timeout        = "120s" # IMAP servers search long

  php {
    env = { ROUNDCUBE_CONFIG_DIR = env("ROUNDCUBE_CONFIG", "/etc/roundcube") }
    ini = {
      upload_max_filesize = "25M"
      post_max_size       = "26M"
      memory_limit        = "128M"
    }
  }
}

site "localhost" "127.0.0.1" {
  listen           = [env("LISTEN", ":8080"), "${env("LISTEN_TLS", ":8443")} tls"]
  root             = env("ROUNDCUBE", "/var/lib/roundcube/public_html")
  max_request_body = "27M"

  # The package's links, and what they lead to in /usr/share, belong to root.
  symlinks = "owner"

  tls {
    certificate = env("CERTIFICATE", "/etc/ssl/certs/ssl-cert-snakeoil.pem")
    key         = env("KEY", "/etc/ssl/private/ssl-cert-snakeoil.key")
  }
  compress {}

  header {
    set = { X-Robots-Tag = "noindex, nofollow" }
  }

  # Beside this one there are no scripts for the web: those of the plugins are parts of it.
  route "/index.php" {
    pool = "mail"
  }
  route "/favicon.ico" {
    pool = "edge"
    rewrite "" {
      to = "/skins/elastic/images/favicon.ico"
    }
    respond { status = 404 }
  }
  route "/*" {
    pool = "edge"
    static {
      index         = ["index.php"]
      cache_control = "public, max-age=2592000"
      precompressed = ["gzip"] # the package has some
      hide          = ["README*", "CHANGELOG*", "meta.json", "composer.*", "config.inc.php*"]
    }
  }
}
