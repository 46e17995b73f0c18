pool "node" {
  mpm = "worker"
  http {
    command = ["node", "server.js", "{socket}"]
    env     = { GATEWAY_SOCKET = "/tmp/x", LISTEN_PID = 1 }
  }
}
site "example.com" {
  listen = [":80"]
  root   = "/srv/www"
  route "/node" {
    pool = "node"
  }
}
