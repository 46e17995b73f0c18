# DokuWiki as Debian packages it. What its .htaccess files say for Apache is said by routes here.

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
    ini = {
      upload_max_filesize = "32M"
      post_max_size       = "33M"
      # A file that runs before each script; it may define DOKU_CONF for a wiki with a configuration elsewhere.
      auto_prepend_file = env("DOKUWIKI_PREPEND", "")
    }
  }
}

site "localhost" {
  listen           = [env("LISTEN", ":8080")]
  root             = env("DOKUWIKI", "/usr/share/dokuwiki")
  max_request_body = "34M"

  # Not for the web.
  route "/bin/*" {
    pool = "edge"
    respond { status = 403 }
  }
  route "/conf/*" {
    pool = "edge"
    respond { status = 403 }
  }
  route "/data/*" {
    pool = "edge"
    respond { status = 403 }
  }
  route "/inc/*" {
    pool = "edge"
    respond { status = 403 }
  }
  route "/vendor/*" {
    pool = "edge"
    respond { status = 403 }
  }
  route "/install.php" {
    pool = "edge"
    respond { status = 403 }
  }

  route "*.php" {
    pool = "wiki"
  }

  # In the root these two are links to /var/lib/dokuwiki, and no link leads out of a root.
  route "/lib/tpl/*" {
    pool = "edge"
    root = env("DOKUWIKI_STATE", "/var/lib/dokuwiki")
    static { cache_control = "public, max-age=3600" }
  }
  route "/lib/plugins/*" {
    pool = "edge"
    root = env("DOKUWIKI_STATE", "/var/lib/dokuwiki")
    static { cache_control = "public, max-age=3600" }
  }
  route "/*" {
    pool = "edge"
    static { index = ["doku.php"] }
  }
}
