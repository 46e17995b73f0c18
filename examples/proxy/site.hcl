# A legacy site whose new part is another server: its files from here, "/api/" and everything that it keeps open from there.

pool "edge" {
  mpm = "event"
}

# Conversations and event streams hold a slot for as long as they last: a pool of their own leaves the others alone.
pool "live" {
  mpm                 = "event"
  max_request_workers = 2000
}

site "localhost" {
  listen = [env("LISTEN", ":8080")]
  root   = "public"

  route "/api/live/*" {
    pool = "live"
    proxy { to = [env("BACKEND", "http://127.0.0.1:9000")] }
  }
  route "/api/*" {
    pool = "edge"
    proxy { to = [env("BACKEND", "http://127.0.0.1:9000"), env("SPARE", "unix:/run/api.sock")] }
  }
  route "/*" {
    pool = "edge"
    static {}
  }
}
