pool "scripts" {
  mpm = "prefork"
}
site "example.com" {
  listen = [":80"]
  route "/a" {
    pool = "scripts"
    redirect {
      to = "/b"
    }
  }
  route "/b" {
    pool = "scripts"
    respond {
      body = "b"
    }
  }
}
