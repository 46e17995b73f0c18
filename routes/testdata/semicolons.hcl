site "localhost" {
  max_keep_alive_requests = 5;
  client_max_body_size 10m;
}
