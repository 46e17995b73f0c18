# An application with one entry, as WordPress, Drupal, Nextcloud or Laravel have it: what is a file is sent, everything else is for
# index.php. What its .htaccess says for Apache is said here; docs/apache.md has the words side by side.

locals {
  app = env("APP", "public")
}

pool "edge" {
  mpm = "event"
}

pool "php" {
  mpm                 = "prefork"
  start_servers       = 2
  min_spare_servers   = 2
  max_spare_servers   = 4
  max_request_workers = 16
  request_timeout     = "30s"
  php {}
}

site "localhost" {
  listen = [env("LISTEN", ":8080")]
  root   = local.app

  # Header always set X-Content-Type-Options nosniff
  header {
    set    = { X-Content-Type-Options = "nosniff", Referrer-Policy = "same-origin" }
    remove = ["X-Powered-By"]
    always = true
  }

  # ErrorDocument 403 /errors/403.html
  error_page "403" {
    path = "/errors/{status}.html"
  }

  # An older address of the blog: Redirect 301, with what followed.
  route "/blog/*" {
    pool = "edge"
    rewrite "^/blog/(?<year>[0-9]{4})/(?<slug>[a-z-]+)$" {
      to     = "/posts/{slug}?year={year}"
      status = 301
    }
    redirect { to = "/" }
  }

  # Not for the web, and nothing that was uploaded runs.
  route "/config/*" {
    pool = "edge"
    deny = "all"
    respond {}
  }
  route "/uploads/*" {
    pool = "edge"
    static {}
  }

  # Whoever guesses passwords has to be patient.
  route "/login" {
    pool = "php"
    rate_limit {
      rate  = "30r/m"
      burst = 5
    }
    rewrite "" {
      to = "/index.php"
    }
  }

  route "/admin/*" {
    pool = "php"
    auth_basic {
      realm = "Administration"
      file  = env("PASSWORDS", "htpasswd")
    }
    rewrite "" {
      to = "/index.php"
    }
  }

  route "/assets/*" {
    pool = "edge"
    static { cache_control = "public, max-age=86400" }
  }
  route "*.php" {
    pool = "php"
  }

  # RewriteCond %{REQUEST_FILENAME} !-f
  # RewriteCond %{REQUEST_FILENAME} !-d
  # RewriteRule . /index.php [L]
  route "/*" {
    pool = "edge"
    rewrite "" {
      to = "/index.php"
      not {
        file   = "{path}"
        folder = "{path}"
      }
    }
    static { index = ["index.php"] }
  }
}
