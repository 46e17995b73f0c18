# WordPress as Debian packages it: its program in /usr/share/wordpress, what belongs to the site in /var/lib/wordpress. What the package proposes for Apache is said by routes here.

locals {
  program = env("WORDPRESS", "/usr/share/wordpress")
  content = env("WORDPRESS_LIB", "/var/lib/wordpress") # the folder that holds wp-content
}

pool "edge" {
  mpm = "event"
}

# At least two: WordPress asks itself, for wp-cron.php and to see whether its addresses work.
pool "wordpress" {
  mpm                    = "prefork"
  start_servers          = 2
  min_spare_servers      = 2
  max_spare_servers      = 4
  max_request_workers    = 16
  max_requests_per_child = 1000
  request_timeout        = "120s"

  php {
    ini = {
      memory_limit        = "256M"
      upload_max_filesize = "64M"
      post_max_size       = "65M"
    }
  }
}

site "localhost" "127.0.0.1" {
  listen           = [env("LISTEN", ":8080")]
  root             = local.program
  index            = ["index.php"]
  max_request_body = "66M"
  compress {}

  # The package's links, and what they lead to in /usr/share, belong to root.
  symlinks = "owner"

  header {
    set = { X-Content-Type-Options = "nosniff" }
  }

  # Parts of the program, and what nobody uses but those who guess passwords.
  rewrite "^/(wp-config[.]php|wp-config-sample[.]php|xmlrpc[.]php|readme[.]html|wp-includes/.*[.]php|wp-admin/includes/.*)(/|$)" {
    status = 403
  }

  # Alias /wp-content /var/lib/wordpress/wp-content. Nothing in it is run by its name, least of all what was uploaded.
  route "/wp-content/uploads/*" {
    pool     = "edge"
    root     = local.content
    symlinks = "none"
    static {
      index         = ["index.html"]
      cache_control = "public, max-age=86400"
    }
  }
  route "/wp-content/*" {
    pool = "edge"
    root = local.content
    static {
      index         = ["index.html"]
      cache_control = "public, max-age=86400"
    }
  }

  route "/wp-login.php" {
    pool = "wordpress"
    rate_limit {
      rate  = "30r/m"
      burst = 10
    }
  }
  route "*.php" {
    pool = "wordpress"
  }

  # What is a file is sent, everything else is for index.php.
  route "/*" {
    pool = "edge"
    rewrite "" {
      to = "/index.php"
      not {
        file   = "{path}"
        folder = "{path}"
      }
    }
    static {
      cache_by_suffix = { ".css" = "public, max-age=86400", ".js" = "public, max-age=86400", ".png" = "public, max-age=86400" }
    }
  }
}
