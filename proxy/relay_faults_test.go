package proxy

import (
	"bufio"
	stdtls "crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/mpm/event"
	"gateway/routes"
)

// faulty answers requests for /N/KIND, on one connection, as their kind says, and reports whether it may go on. The body of each answer names
// its request.
func faulty(nc net.Conn, target, kind string) (more bool) {
	write := func(format string, args ...any) { _, _ = fmt.Fprintf(nc, format, args...) }
	length := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n", len(target))
	switch kind {
	case "length":
		write("%s\r\n%s", length, target)
	case "chunks":
		write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(target), target)
	case "pieces":
		text := length + "\r\n" + target
		for len(text) > 0 {
			n := min(1+rand.IntN(len(text)), len(text))
			write("%s", text[:n])
			text = text[n:]
			time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
		}
	case "crumbs": // more of them than the loop reads
		for _, c := range []byte(length + "\r\n" + target) {
			write("%c", c)
			time.Sleep(20 * time.Microsecond)
		}
	case "hint":
		write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n%s\r\n%s", length, target)
	case "large":
		write("HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n%s", strings.Repeat(target+" ", 200000/len(target)+1)[:200000])
	case "location":
		write("%sLocation: /\r\n\r\n%s", length, target)
	case "last":
		write("%sConnection: close\r\n\r\n%s", length, target)
		return false
	case "hangs-up":
		write("%s\r\n%s", length, target)
		return false
	case "more":
		write("%s\r\n%sHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", length, target)
	case "later":
		write("%s\r\n%s", length, target)
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		write("HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		return false
	case "nothing":
		return false
	case "cut":
		write("%s\r\n%s", length, target[1:])
		return false
	case "reset":
		write("%s", length)
		_ = nc.(*net.TCPConn).SetLinger(0)
		return false
	case "nonsense":
		write("200 OK\r\n\r\n")
		return false
	case "slow":
		time.Sleep(2100 * time.Millisecond)
		write("%s\r\n%s", length, target)
	}
	return true
}

// TestRelayFaults has servers and clients fail in all ways at once: no client gets another one's answer, and in the end nothing is left in use.
func TestRelayFaults(t *testing.T) {
	for name, secure := range map[string]func(client int) bool{
		"by loops":                func(int) bool { return false },
		"by goroutines, over TLS": func(int) bool { return true },
		"by both":                 func(client int) bool { return client%2 == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testRelayFaults(t, secure)
		})
	}
}

func testRelayFaults(t *testing.T, secure func(client int) bool) {
	kinds := append(slices.Repeat([]string{"length", "chunks"}, 20), "pieces", "crumbs", "hint", "large", "location", "last", "hangs-up", "more", "later", "nothing", "cut", "reset", "nonsense")
	var to []routes.Upstream
	for i := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() {
			for {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				serving.Go(func() {
					defer nc.Close()
					for br := bufio.NewReader(nc); ; {
						r, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						if !faulty(nc, r.URL.Path, r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]) {
							return
						}
					}
				})
			}
		})
		t.Cleanup(func() {
			l.Close()
			serving.Wait()
		})
		to = append(to, routes.Upstream{Network: "tcp", Address: l.Addr().String(), Weight: i + 1, Backup: i == 2, MaxConnections: 10})
	}
	g, handler := newRoute(t, routes.Pool{MaxRequestWorkers: 16, Queue: routes.Queue{Length: 100, Timeout: time.Second}}, routes.Route{Proxy: &routes.Proxy{To: to, KeepAlive: 8, KeepAliveTimeout: time.Second, MaxFails: 5, FailTimeout: 50 * time.Millisecond}})
	var e *event.Engine
	g.addr, e = serveOn(t, handler, g.server)
	front := serveHTTPSOn(t, time.Minute, handler, g.server)
	until := time.Now().Add(3 * time.Second)
	var clients sync.WaitGroup
	for c := range 24 {
		clients.Go(func() {
			kinds := kinds
			if c == 0 {
				kinds = append([]string{"slow"}, kinds...)
			}
			var nc interface {
				net.Conn
				CloseWrite() error
			}
			var tcp *net.TCPConn // below it
			var br *bufio.Reader
			for i := 0; time.Now().Before(until); i++ {
				if nc == nil {
					if secure(c) {
						tcp = front.dial(t).(*net.TCPConn)
						nc = stdtls.Client(tcp, clientConfig)
					} else {
						below, _ := dialText(t, g.addr, "")
						tcp = below.(*net.TCPConn)
						nc = tcp
					}
					br = bufio.NewReader(nc)
					_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
				}
				kind := kinds[rand.IntN(len(kinds))]
				targets := []string{fmt.Sprintf("/%d-%d/%s", c, i, kind)}
				for rand.IntN(4) == 0 { // a pipeline
					targets = append(targets, fmt.Sprintf("/%d-%d-%d/%s", c, i, len(targets), kinds[rand.IntN(len(kinds))]))
				}
				for _, target := range targets {
					_, _ = fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target)
				}
				end := rand.IntN(20)
				switch end {
				case 0, 1:
					time.Sleep(time.Duration(rand.IntN(500)) * time.Microsecond)
					if end == 0 {
						_ = tcp.SetLinger(0)
					}
					tcp.Close()
					nc = nil
					continue
				case 2:
					_ = nc.CloseWrite()
				}
				for _, target := range targets {
					more := checkFaulty(t, br, target)
					if !more {
						nc.Close()
						nc = nil
						break
					}
				}
				if end == 2 && nc != nil {
					nc.Close()
					nc = nil
				}
			}
			if nc != nil {
				nc.Close()
			}
		})
	}
	clients.Wait()
	eventually(t, "the end of all requests", func() bool {
		for _, s := range g.server.Upstreams() {
			if s.Connections.Active != 0 {
				return false
			}
		}
		return e.Stats().Active == 0 && e.Stats().Open == 0 && front.engine.Stats().Active == 0 && front.engine.Stats().Open == 0
	})
	eventually(t, "the end of all connections that wait", func() bool {
		for _, s := range g.server.Upstreams() {
			if s.Connections.Idle != 0 {
				return false
			}
		}
		return true
	})
	for _, s := range g.server.proxies[0].servers {
		for i := range s.loops {
			if n := len(s.loops[i].idle); n > 0 {
				t.Errorf("a loop keeps %d connections", n)
			}
		}
		t.Logf("requests %d, failures %d, relayed %d", s.requests.Load(), s.failures.Load(), s.relayed.Load())
	}
	g.free(t)
}

// checkFaulty reads the answer to target, and reports whether another one can follow.
func checkFaulty(t *testing.T, br *bufio.Reader, target string) (more bool) {
	resp, err := http.ReadResponse(br, nil)
	for err == nil && resp.StatusCode < 200 {
		resp, err = http.ReadResponse(br, nil)
	}
	if err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Error(target, "got no answer:", err)
		}
		return false
	}
	body, err := io.ReadAll(resp.Body)
	kind := target[strings.LastIndexByte(target, '/')+1:]
	switch {
	case resp.StatusCode == 502, resp.StatusCode == 503:
	case resp.StatusCode == 408 && len(body) == 0: // the server has said so just when it was asked
	case resp.StatusCode != 200:
		t.Errorf("%s got %d, %q", target, resp.StatusCode, body)
	case kind == "cut", kind == "reset":
		if err == nil {
			t.Errorf("%s got all of %q", target, body)
		}
	case kind == "nothing", kind == "nonsense":
		t.Errorf("%s got %d, %q", target, resp.StatusCode, body)
	case kind == "large":
		if !strings.HasPrefix(string(body), target+" ") || len(body) != 200000 {
			t.Errorf("%s got %d bytes, %.40q, %v", target, len(body), body, err)
		}
	case string(body) != target || err != nil:
		t.Errorf("%s got %.80q, %v", target, body, err)
	}
	return err == nil && !resp.Close
}
