# MediaWiki as Debian packages it, with short addresses: /wiki/Main_Page. What Apache's mediawiki.conf and the .htaccess files say is said by routes here.

locals {
  # The folder that holds the folder "mediawiki": Alias /mediawiki /var/lib/mediawiki
  lib = env("MEDIAWIKI_LIB", "/var/lib")
}

pool "edge" {
  mpm = "event"
}

pool "wiki" {
  mpm                    = "prefork"
  start_servers          = 2
  min_spare_servers      = 2
  max_spare_servers      = 4
  max_request_workers    = 16
  max_requests_per_child = 1000
  request_timeout        = "60s"

  php {
    env = { MW_INSTALL_PATH = "${local.lib}/mediawiki" }
    ini = {
      memory_limit        = "256M"
      upload_max_filesize = "32M"
      post_max_size       = "33M"
    }
    share_opcache = true
  }
}

site "localhost" "127.0.0.1" {
  listen           = [env("LISTEN", ":8080"), "${env("LISTEN_TLS", ":8443")} tls"]
  root             = local.lib
  max_request_body = "34M"
  encoded_slashes  = true # in the REST interface's names of pages

  # What the package's links lead to in /usr/share belongs to root, as they do.
  symlinks = "owner"

  tls {
    certificate = env("CERTIFICATE", "/etc/ssl/certs/ssl-cert-snakeoil.pem")
    key         = env("KEY", "/etc/ssl/private/ssl-cert-snakeoil.key")
    redirect    = false
  }
  compress {}

  # Not for the web.
  rewrite "^/mediawiki/(cache|config|extensions/.*[.]php|includes|languages|maintenance|mw-config|vendor)(/|$)" {
    status = 403
  }

  route "/" {
    pool = "edge"
    redirect { to = "/wiki/" }
  }
  route "/mediawiki" {
    pool = "edge"
    redirect { to = "/wiki/" }
  }
  route "/wiki/*" {
    pool = "wiki"
    rewrite "" {
      to = "/mediawiki/index.php"
    }
  }

  # What was uploaded is sent and never runs. A thumbnail that is not there yet is made.
  route "/mediawiki/images/thumb/*" {
    pool      = "edge"
    symlinks  = "none"
    try_files = ["{path}", "/mediawiki/thumb_handler.php"]
    static { cache_control = "public, max-age=3600" }
  }
  route "/mediawiki/images/*" {
    pool     = "edge"
    symlinks = "none"
    static { cache_control = "public, max-age=3600" }
  }

  route "*.php" {
    pool = "wiki"
  }
  route "/mediawiki/*" {
    pool = "edge"
    static {
      index         = ["index.php"]
      cache_control = "public, max-age=86400"
    }
  }
}
