gateway {
  user        = "www-data"
  runtime_dir = "{{.Dir}}/run-upstream"
  state_dir   = "{{.Dir}}/state-upstream"
  log {
    level = "warn"
  }
}

pool "edge" {
  mpm = "event"
}

site "localhost" "127.0.0.1" {
  listen             = ["{{.Plain}}"]
  root               = "{{.Dir}}/www"
  keep_alive_timeout = "600s"
  route "/*" {
    pool = "edge"
    static {}
  }
}
