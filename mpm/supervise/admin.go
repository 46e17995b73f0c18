package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"gateway/internal/ctl"
)

const (
	adminMode        = 0o600
	adminTimeout     = time.Second // for the client to say its line, and for each answer
	adminLine        = 64          // bytes, without the line's end
	adminConnections = 16          // at once, until they said their line
	maxStopWaiters   = 64
	acceptPause      = 100 * time.Millisecond // after an accept that failed, which is for want of descriptors
)

// request is what one admin client asks. The loop answers and closes it.
type request struct {
	command string
	conn    *net.UnixConn
}

// answer writes text and closes the connection. The buffer of the socket is empty, so this does not block.
func (r request) answer(text string) {
	r.conn.SetWriteDeadline(time.Now().Add(adminTimeout)) //nolint:errcheck // then the write fails
	io.WriteString(r.conn, text)                          //nolint:errcheck // a client that left wants no answer
	r.conn.Close()                                        //nolint:errcheck // see above
}

// admin is the socket that `gateway status` and `gateway stop` use. Its goroutines read; only the loop acts.
type admin struct {
	listener *net.UnixListener
	requests chan request
	ctx      context.Context
	cancel   context.CancelFunc
	readers  sync.WaitGroup
}

// listenAdmin takes over the socket of a supervisor that was killed; the caller knows that none lives.
func listenAdmin(path string) (*admin, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := listenPrivately(path)
	if err != nil {
		return nil, err
	}
	a := &admin{listener: l, requests: make(chan request)}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.readers.Go(a.accept) // ends with close
	return a, nil
}

// close stops listening and removes the socket. Clients that did not say their line yet are cut off.
func (a *admin) close() {
	a.cancel()
	a.listener.Close() //nolint:errcheck // it removes the socket, or the next start does
	a.readers.Wait()
}

func (a *admin) accept() {
	tokens := make(chan struct{}, adminConnections)
	for {
		c, err := a.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-a.ctx.Done():
				return
			case <-time.After(acceptPause):
				continue
			}
		}
		select {
		case tokens <- struct{}{}:
			a.readers.Go(func() { // ends after adminTimeout at the latest
				defer func() { <-tokens }()
				a.read(c)
			})
		default:
			c.Close() //nolint:errcheck // too many at once
		}
	}
}

// read hands the line of one client to the loop.
func (a *admin) read(c *net.UnixConn) {
	r := request{conn: c}
	cred, err := peerOf(c)
	if err != nil || cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		r.answer("error: only root and the user of the gateway may ask\n")
		return
	}
	c.SetReadDeadline(time.Now().Add(adminTimeout))                                 //nolint:errcheck // then the read fails
	stop := context.AfterFunc(a.ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) }) //nolint:errcheck // see above
	r.command, err = readLine(c)
	stop()
	if err != nil {
		r.answer("error: " + err.Error() + "\n")
		return
	}
	select {
	case a.requests <- r:
	case <-a.ctx.Done():
		c.Close() //nolint:errcheck // the gateway is gone
	}
}

func readLine(r io.Reader) (string, error) {
	line, err := bufio.NewReaderSize(io.LimitReader(r, adminLine+1), adminLine+1).ReadString('\n')
	switch {
	case err == nil:
		return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), nil
	case len(line) > adminLine:
		return "", errors.New("line too long")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", errors.New("no line within " + adminTimeout.String())
	default:
		return "", errors.New("the line has no end")
	}
}

// adminRequest answers one client.
func (s *supervisor) adminRequest(r request, now time.Time) {
	switch r.command {
	case "pid":
		r.answer(strconv.Itoa(os.Getpid()) + "\n")
	case "status":
		s.passStatus(r, now)
	case "stop":
		s.waitForStop(r, now)
	default:
		r.answer("error: unknown command: use status, stop or pid\n")
	}
}

// passStatus gives the connection to the front, which knows more, or answers for it.
func (s *supervisor) passStatus(r request, now time.Time) {
	if s.front == nil || !s.front.ready {
		r.answer(s.status(now))
		return
	}
	file, err := r.conn.File()
	if err != nil {
		r.answer(s.status(now))
		return
	}
	r.conn.Close() //nolint:errcheck // file is a duplicate
	s.send(ctl.Message{Kind: ctl.Status}, file, file)
}

// status is the status while no front answers.
func (s *supervisor) status(now time.Time) string {
	type connections struct {
		Open   int `json:"open"`
		Parked int `json:"parked"`
		Active int `json:"active"`
	}
	status := struct {
		Version       string      `json:"version"`
		Generation    int         `json:"generation"`
		UptimeSeconds float64     `json:"uptime_seconds"`
		SupervisorPID int         `json:"supervisor_pid"`
		FrontPID      int         `json:"front_pid"`
		Connections   connections `json:"connections"`
		Pools         []struct{}  `json:"pools"`
	}{
		Version:       s.plan.Version,
		Generation:    s.plan.Generation,
		UptimeSeconds: now.Sub(s.started).Seconds(),
		SupervisorPID: os.Getpid(),
		Pools:         []struct{}{},
	}
	b, err := json.Marshal(status)
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	return string(b) + "\n"
}

// waitForStop begins a graceful stop. The client gets its answer when everything is gone.
func (s *supervisor) waitForStop(r request, now time.Time) {
	if len(s.stopWaiters) == maxStopWaiters {
		r.answer("error: too many wait for the stop\n")
		return
	}
	s.stopWaiters = append(s.stopWaiters, r)
	s.stopGracefully(now, "stop command")
}
