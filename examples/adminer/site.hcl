# Adminer as Debian packages it, at https://HOST/adminer/ as with its configuration for Apache.

locals {
  etc = env("ADMINER_ETC", "/etc") # the folder that holds the folder "adminer" with conf.php
}

pool "edge" {
  mpm = "event"
}

pool "adminer" {
  mpm                 = "prefork"
  spawn               = "ondemand" # it is needed now and then
  max_request_workers = 8
  request_timeout     = "10m" # exports and imports take long

  php {
    ini = {
      upload_max_filesize = "128M"
      post_max_size       = "129M"
      memory_limit        = "512M"
    }
  }
}

site "localhost" "127.0.0.1" {
  listen           = [env("LISTEN", ":8080"), "${env("LISTEN_TLS", ":8443")} tls"]
  max_request_body = "130M"

  # Whoever knows a password of the database is its master: not from everywhere.
  allow = ["127.0.0.0/8", "10.0.0.0/8", "192.168.0.0/16", "::1"]

  tls {
    certificate = env("CERTIFICATE", "/etc/ssl/certs/ssl-cert-snakeoil.pem")
    key         = env("KEY", "/etc/ssl/private/ssl-cert-snakeoil.key")
  }
  compress {}

  # The one script, by its folder's name; nothing else of /etc.
  route "/adminer/conf.php" {
    pool = "adminer"
    root = local.etc
  }
  route "/adminer/" {
    pool = "edge"
    root = local.etc
    static { index = ["conf.php"] }
  }
  route "/adminer" {
    pool = "edge"
    redirect { to = "/adminer/" }
  }
  route "/" {
    pool = "edge"
    redirect { to = "/adminer/" }
  }
}
