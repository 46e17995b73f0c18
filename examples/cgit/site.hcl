# Git repositories in /srv/git, as Debian packages cgit and git: for browsers below /cgit/, to clone from and push to at https://HOST/git/NAME.git.
# Everybody may read; who pushes needs a password.

locals {
  repositories = env("REPOSITORIES", "/srv/git")
  share        = env("CGIT_SHARE", "/usr/share/cgit")
  backend      = "/usr/lib/git-core/git-http-backend"
  git = {
    GIT_PROJECT_ROOT    = local.repositories
    GIT_HTTP_EXPORT_ALL = "1" # without it only repositories with a file git-daemon-export-ok
  }
}

pool "edge" {
  mpm = "event"
}

pool "cgit" {
  mpm                 = "prefork"
  start_servers       = 2
  min_spare_servers   = 1
  max_spare_servers   = 4
  max_request_workers = 16
  request_timeout     = "30s"
}

# Clones of large repositories take long. The user must be able to write in the repositories.
pool "git" {
  mpm                 = "prefork"
  start_servers       = 2
  min_spare_servers   = 1
  max_spare_servers   = 4
  max_request_workers = 16
  request_timeout     = "10m"
}

site "localhost" "127.0.0.1" {
  listen           = [env("LISTEN", ":8080"), "${env("LISTEN_TLS", ":8443")} tls"]
  max_request_body = "2G" # a push, with all that is new in it

  tls {
    certificate = env("CERTIFICATE", "/etc/ssl/certs/ssl-cert-snakeoil.pem")
    key         = env("KEY", "/etc/ssl/private/ssl-cert-snakeoil.key")
  }

  # A push begins with the question what is there, and says then that it is one.
  rewrite "^/git/(.*/info/refs)$" {
    to = "/push/{1}"
    when { query = "(^|&)service=git-receive-pack(&|$)" }
  }
  rewrite "^/git/(.*/git-receive-pack)$" {
    to = "/push/{1}"
  }

  route "/push/*" {
    pool = "git"
    auth_basic {
      realm = "Push"
      file  = env("PASSWORDS", "/etc/gateway/git.htpasswd")
    }
    cgi {
      script = local.backend
      env    = local.git
    }
  }
  route "/git/*" {
    pool = "git"
    cgi {
      script = local.backend
      env    = local.git
    }
  }

  # Apache's Alias /cgit-css /usr/share/cgit
  route "/cgit-css/*" {
    pool         = "edge"
    root         = local.share
    strip_prefix = true
    static { cache_control = "public, max-age=86400" }
  }
  route "/cgit/*" {
    pool = "cgit"
    compress {}
    cgi {
      script = env("CGIT", "/usr/lib/cgit/cgit.cgi")
      env    = { CGIT_CONFIG = env("CGITRC", "/etc/cgitrc") }
    }
  }
  route "/cgit" {
    pool = "edge"
    redirect { to = "/cgit/" }
  }
  route "/" {
    pool = "edge"
    redirect { to = "/cgit/" }
  }
}
