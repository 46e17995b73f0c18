# CGI scripts: one process each, never more than eight at once. The others wait.

pool "scripts" {
  mpm                 = "prefork"
  start_servers       = 1
  min_spare_servers   = 1
  max_spare_servers   = 4
  max_request_workers = 8
  request_timeout     = "20s"
}

pool "edge" {
  mpm = "event"
}

site "localhost" {
  listen = [env("LISTEN", ":8080")]

  route "/cgi-bin/*" {
    pool = "scripts"
    cgi {
      root = "cgi-bin"
      env  = { GREETING = "Hello" }
    }
  }

  # One program for a whole part of the site.
  route "/echo/*" {
    pool    = "scripts"
    methods = ["POST"]
    cgi { script = "cgi-bin/echo" }
  }
  route "/" {
    pool = "edge"
    redirect { to = "/cgi-bin/hello/world" }
  }
}
