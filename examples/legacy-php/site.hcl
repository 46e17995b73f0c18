# An old PHP application: PHP in its own processes, everything else straight from the front.

pool "edge" {
  mpm = "event"
}

pool "php" {
  mpm                    = "prefork"
  start_servers          = 2
  min_spare_servers      = 2
  max_spare_servers      = 4
  max_request_workers    = 16
  max_requests_per_child = 4000
  request_timeout        = "30s"

  queue {
    length  = 64
    timeout = "10s"
  }
  php {
    ini = {
      memory_limit        = "64M"
      upload_max_filesize = "8M"
      post_max_size       = "9M"
    }
    env = { NOTES = env("NOTES", "/var/tmp/gateway-notes.txt") }
  }
}

site "localhost" {
  listen           = [env("LISTEN", ":8080")]
  root             = "public"
  max_request_body = "10M"

  route "*.php" {
    pool = "php"
  }

  route "/assets/*" {
    pool = "edge"
    static {
      cache_control = "public, max-age=3600"
    }
  }

  # A file if there is one, or else the application.
  route "/*" {
    pool      = "edge"
    try_files = ["{path}", "/index.php"]
    static {}
  }
}
