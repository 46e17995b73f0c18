pool "shop" {
  mpm = "event"
  wsgi {
    module = "shop.wsgi:application"
  }
}
pool "node" {
  mpm = "event"
  http {
    command = ["node", "server.js"]
  }
}
pool "edge" {
  mpm = "event"
  rlimit {
    nofile = 1024
  }
  cgroup {}
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/shop" {
    pool = "shop"
  }
  route "/node" {
    pool = "node"
  }
  route "/edge" {
    pool = "edge"
    static {}
  }
}
