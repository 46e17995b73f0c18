# gitweb as Debian packages it: one CGI program for the site, its images and styles from the front.
# Which repositories it shows is said in /etc/gitweb.conf ($projectroot).

pool "edge" {
  mpm = "event"
}

pool "gitweb" {
  mpm                 = "prefork"
  start_servers       = 1
  min_spare_servers   = 1
  max_spare_servers   = 4
  max_request_workers = 8
  request_timeout     = "30s"
}

site "localhost" {
  listen = [env("LISTEN", ":8080")]
  root   = env("GITWEB", "/usr/share/gitweb")

  route "/static/*" {
    pool = "edge"
    static { cache_control = "public, max-age=3600" }
  }
  route "/*" {
    pool = "gitweb"
    cgi {
      script = "${env("GITWEB", "/usr/share/gitweb")}/gitweb.cgi"
      env    = { GITWEB_CONFIG = env("GITWEB_CONFIG", "/etc/gitweb.conf") }
    }
  }
}
