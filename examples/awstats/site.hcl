# AWStats as Debian packages it, over the access log that the gateway writes about the site beside it.

gateway {
  access_log {
    path   = env("ACCESS_LOG", "/var/log/gateway/access.log")
    format = "combined" # LogFormat=1
  }
}

pool "edge" {
  mpm = "event"
}

# One at a time: two that bring the figures up to date at once would spoil them. Its user must be able to read the log and to write in /var/lib/awstats.
pool "statistics" {
  mpm                 = "prefork"
  spawn               = "ondemand"
  max_request_workers = 1
  request_timeout     = "10m"
}

site "localhost" "127.0.0.1" {
  listen = [env("LISTEN", ":8080"), "${env("LISTEN_TLS", ":8443")} tls"]
  root   = env("DOCUMENTS", "/var/www/html")

  tls {
    certificate = env("CERTIFICATE", "/etc/ssl/certs/ssl-cert-snakeoil.pem")
    key         = env("KEY", "/etc/ssl/private/ssl-cert-snakeoil.key")
    redirect    = false
  }

  # Apache's Alias /awstats-icon /usr/share/awstats/icon
  route "/awstats-icon/*" {
    pool         = "edge"
    root         = env("AWSTATS_ICONS", "/usr/share/awstats/icon")
    strip_prefix = true
    static { cache_control = "public, max-age=86400" }
  }
  route "/cgi-bin/awstats.pl" {
    pool = "statistics"
    auth_basic {
      realm = "Statistics"
      file  = env("PASSWORDS", "/etc/gateway/statistics.htpasswd")
    }
    compress {}
    cgi { script = env("AWSTATS", "/usr/lib/cgi-bin/awstats.pl") }
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
