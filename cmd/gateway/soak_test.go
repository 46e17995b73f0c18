package main_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gateway/internal/gatewaytest"
)

// soakTime is how long a soak lasts; GATEWAY_TEST_SOAK sets another time, such as 10m.
const soakTime = 10 * time.Second

// soak has clients of all kinds come and go at full load. What it leaves is looked at by who called it; memory is looked at here.
func (s *stress) soak(t *testing.T) {
	lasts := soakTime
	if text := os.Getenv("GATEWAY_TEST_SOAK"); text != "" {
		var err error
		if lasts, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	status, err := s.Status()
	if err != nil {
		t.Fatal(err)
	}
	before := resident(t, status.FrontPID)
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var wg sync.WaitGroup
	for _, client := range []func(*stress) error{(*stress).stays, (*stress).comesAndGoes, (*stress).runs, (*stress).breaksOff, (*stress).resets} {
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if err := client(s); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	wg.Wait()
	const slack = 48 << 20 // what the runtime keeps of a burst, with the race detector's shadow of it
	var after int64
	if err := gatewaytest.Wait(func() (bool, error) {
		after = resident(t, status.FrontPID)
		return after <= before+slack, nil
	}); err != nil {
		t.Errorf("the front has %d MiB, %d before", after>>20, before>>20)
	}
	t.Logf("front: %d MiB before, %d after %v", before>>20, after>>20, lasts)
}

// stays uses its connection again.
func (s *stress) stays() error { return s.fetch(s.http, "/hello.txt") }

// comesAndGoes opens a connection for each request.
func (s *stress) comesAndGoes() error {
	return s.fetch(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: gatewaytest.Patience}, "/hello.txt")
}

// runs has a program answer.
func (s *stress) runs() error { return s.fetch(s.http, "/spare/pid") }

func (s *stress) fetch(client *http.Client, path string) error {
	resp, err := client.Get(s.url + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return nil
}

// breaksOff leaves in the middle of a head.
func (s *stress) breaksOff() error {
	request := "GET /spare/pid HTTP/1.1\r\nHost: localhost\r\n\r\n"
	return s.send(request[:rand.IntN(len(request))], false)
}

// resets wants no answer to what it has asked for.
func (s *stress) resets() error {
	return s.send("GET /hello.txt HTTP/1.1\r\nHost: localhost\r\n\r\n", true)
}

func (s *stress) send(text string, reset bool) error {
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	if tcp, ok := c.(*net.TCPConn); ok && reset {
		if err := tcp.SetLinger(0); err != nil {
			return err
		}
	}
	return c.Close()
}

// resident is the memory that a process has, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(unix.Getpagesize())
}
