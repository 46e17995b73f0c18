package tls

import (
	"bufio"
	"net"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/gomodule/redigo/redis"

	"gateway/routes"
)

// lyingServer answers every command with the same bytes.
func lyingServer(t *testing.T, reply string) *routes.Redis {
	t.Helper()
	ln := listenLoopback(t)
	go func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go answerAll(c, reply) // ends with the connection, which the storage closes
		}
	}()
	return &routes.Redis{Network: "tcp", Address: ln.Addr().String(), Prefix: "gateway", Timeout: 5 * time.Second}
}

func answerAll(c net.Conn, reply string) {
	defer c.Close()
	for in := bufio.NewReader(c); ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		arguments, _ := strconv.Atoi(strings.Trim(line, "*\r\n"))
		for range 2 * arguments {
			if _, err := in.ReadString('\n'); err != nil {
				return
			}
		}
		if _, err := c.Write([]byte(reply)); err != nil {
			return
		}
	}
}

func TestALyingServerCostsNoMoreThanItsAnswer(t *testing.T) {
	rows := []struct{ name, reply string }{
		{"a length that no memory has", "$9223372036854775807\r\n"},
		{"a length beyond all numbers", "$99999999999999999999999999\r\n"},
		{"a length that overflows to a small one", "$18446744073709551617\r\n"},
		{"a value of two gigabytes", "$2147483648\r\n"},
		{"a value that is no certificate", "$1048577\r\n" + strings.Repeat("x", 1048577) + "\r\n"},
		{"an array that no memory has", "*9223372036854775807\r\n"},
		{"an array of more files than there are", "*524289\r\n"},
		{"arrays in arrays", strings.Repeat("*1\r\n", 1<<16)},
		{"a line without end", "+" + strings.Repeat("x", 1<<20)},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			s, log, _ := openRedis(t, lyingServer(t, row.reply), StorageFiles{})
			if value, err := s.Load(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), errReply.Error()) {
				t.Errorf("Load = %.20q, %v, want %v", value, err, errReply)
			}
			if _, err := s.trouble(); err != nil || log.count("can't be reached") != 0 {
				t.Errorf("one bad reply has the storage count as away: %v", err)
			}
		})
	}
}

func TestRepliesOfAnotherKindAreErrors(t *testing.T) {
	for _, reply := range []string{":1\r\n", "*1\r\n$1\r\na\r\n", "-WRONGTYPE x\r\n", "$x\r\n", "$-2\r\n", "$\r\n", "\r\n", "?\r\n", "$1\r\nabc\r\n", "$5\n"} {
		s, _, _ := openRedis(t, lyingServer(t, reply), StorageFiles{})
		if value, err := s.Load(t.Context(), "a"); err == nil {
			t.Errorf("Load of %q = %q, want an error", reply, value)
		}
		if s.Exists(t.Context(), "a") && reply != ":1\r\n" {
			t.Errorf("Exists by %q", reply)
		}
	}
}

// bytesConn is a connection on which something comes in.
type bytesConn struct {
	net.Conn
	in *strings.Reader
}

func (bytesConn) Close() error                    { return nil }
func (bytesConn) SetReadDeadline(time.Time) error { return nil }
func (c bytesConn) Read(p []byte) (int, error)    { return iotest.OneByteReader(c.in).Read(p) }

func TestHonestRepliesPass(t *testing.T) {
	for _, reply := range []string{"+OK\r\n", ":-5\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "$0\r\n\r\n", "$4\r\n*9\r\n\r\n", "*2\r\n$1\r\na\r\n$-1\r\n", "$1048576\r\n" + strings.Repeat("9", 1048576) + "\r\n"} {
		c := &replies{Conn: bytesConn{in: strings.NewReader(reply)}}
		got := make([]byte, len(reply))
		for n := 0; n < len(got); n++ {
			if _, err := c.Read(got[n:]); err != nil {
				t.Fatalf("%.20q is cut off after %d bytes: %v", reply, n, err)
			}
		}
		if c.line != 0 || c.body != 0 {
			t.Errorf("after %.20q something of it is still to come: %+v", reply, c)
		}
	}
}

// FuzzReplies has the client library read what the filter lets through: it must not panic.
func FuzzReplies(f *testing.F) {
	for _, seed := range []string{"+OK\r\n", "$3\r\nabc\r\n", "*2\r\n$1\r\na\r\n:1\r\n", "$-1\r\n", "*1\r\n*1\r\n", "$99999999999999999999\r\n", "-E\r\n$1-\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, reply string) {
		c := redis.NewConn(&replies{Conn: bytesConn{in: strings.NewReader(reply)}}, 0, 0)
		for range 4 {
			if _, err := c.Receive(); err != nil {
				return
			}
		}
	})
}
