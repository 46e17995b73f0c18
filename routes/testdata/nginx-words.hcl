site "localhost" {
  listen = ["127.0.0.1:8080"]
  location = /x {
    proxy_pass http://127.0.0.1:3000;
  }
}
