package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"gateway/routes"
)

// grpcLab is a client and a server of gRPC, both of HTTP/2, and the gateway between them.
type grpcLab struct {
	*proxyGate
	client *http.Client
	url    string
}

func newGRPCLab(t testing.TB, cfg routes.Pool, secure bool, route routes.Route, service http.HandlerFunc) *grpcLab {
	t.Helper()
	var to routes.Upstream
	var options []Option
	if secure {
		server, files := tlsServer(t, service, true, nil)
		to, options = server, []Option{encryptWith(t, trusting, files)}
	} else {
		s := httptest.NewUnstartedServer(service)
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
		t.Cleanup(s.Close)
		to = serverOf(s)
		to.HTTP2 = true
	}
	if route.Proxy == nil {
		route.Proxy = &routes.Proxy{}
	}
	route.Proxy.To = []routes.Upstream{to}
	gate, handler := newRoute(t, cfg, route, options...)
	front := serveHTTP2(t, false, handler, nil)
	gate.addr = front.addr
	return &grpcLab{gate, front.client(t), front.url("/echo.Echo/Talk")}
}

// talk is a call whose client says what it likes and listens meanwhile.
type talk struct {
	*http.Response
	say    *io.PipeWriter
	cancel context.CancelFunc
	err    error
}

// call begins one. It returns when the head of the response has come.
func (l *grpcLab) call(t testing.TB, contentType string, first ...string) *talk {
	t.Helper()
	r, say := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	trailer := http.Header{"X-Said": nil}
	request, err := http.NewRequestWithContext(ctx, "POST", l.url, &trailed{r, func() { trailer.Set("X-Said", "all") }})
	if err != nil {
		t.Fatal(err)
	}
	request.Header = http.Header{"Content-Type": {contentType}, "Te": {"trailers"}, "Grpc-Timeout": {"10S"}}
	request.Trailer = trailer
	go func() { // ends with the pipe's reader
		for _, text := range first {
			_, _ = say.Write(message(text))
		}
	}()
	k := &talk{say: say, cancel: cancel}
	k.Response, k.err = l.client.Do(request)
	if k.err == nil {
		t.Cleanup(func() { k.Body.Close() })
	}
	return k
}

// trailed is a body behind which something comes: only who reads it may say what.
type trailed struct {
	*io.PipeReader
	say func()
}

func (w *trailed) Read(p []byte) (int, error) {
	n, err := w.PipeReader.Read(p)
	if err == io.EOF {
		w.say()
	}
	return n, err
}

// leave ends a call in the middle. Go's client does not look after its context while it waits for what to say.
func (k *talk) leave() {
	k.cancel()
	k.say.CloseWithError(context.Canceled)
}

// message frames a text as gRPC does.
func message(text string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(text))), text...)
}

func readMessage(r io.Reader) (string, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[1:]))
	_, err := io.ReadFull(r, b)
	return string(b), err
}

// answerInTurn answers each message in capitals when it comes, and says at the end what it was told.
func answerInTurn(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/slow" {
		<-r.Context().Done()
	}
	w.Header().Set("Content-Type", "application/grpc")
	for {
		text, err := readMessage(r.Body)
		if err != nil {
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
			w.Header().Set(http.TrailerPrefix+"Grpc-Message", r.Trailer.Get("X-Said")+" "+r.Header.Get("Grpc-Timeout")+" "+r.Header.Get("Te"))
			return
		}
		_, _ = w.Write(message(strings.ToUpper(text)))
		_ = http.NewResponseController(w).Flush()
	}
}

// TestGRPCConversation: a question follows from the answer before it, for longer than anything may last that is not a conversation.
func TestGRPCConversation(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, contentType string
		secure            bool
		route             routes.Route
	}{
		{"without TLS", "application/grpc", false, routes.Route{}},
		{"with TLS to the server", "application/grpc+proto", true, routes.Route{}},
		{"of another kind, where it is wanted", "application/octet-stream", false, routes.Route{Unbuffered: true}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := newGRPCLab(t, routes.Pool{RequestTimeout: soon}, row.secure, row.route, answerInTurn)
			k := g.call(t, row.contentType, "question 0")
			if k.err != nil || k.StatusCode != 200 {
				t.Fatalf("the call gave %v, %v; log:\n%s", k.Response, k.err, g.log.text())
			}
			for i := range 5 {
				if got, err := readMessage(k.Body); err != nil || got != "QUESTION "+string(rune('0'+i)) {
					t.Fatalf("answer %d is %q, %v; log:\n%s", i, got, err, g.log.text())
				}
				if i < 4 {
					_, _ = k.say.Write(message("question " + string(rune('1'+i))))
				}
			}
			g.outlive(t) // silence is a part of it
			k.say.Close()
			rest, err := io.ReadAll(k.Body)
			if len(rest) > 0 || err != nil || k.Trailer.Get("Grpc-Status") != "0" || k.Trailer.Get("Grpc-Message") != "all 10S trailers" {
				t.Errorf("the call ends with %q, %v, %v", rest, err, k.Trailer)
			}
			g.free(t)
		})
	}
}

// TestGRPCRefusal: a server may refuse a call before it has heard all of it. Its head is all there is, and says so.
func TestGRPCRefusal(t *testing.T) {
	g := newGRPCLab(t, routes.Pool{}, false, routes.Route{}, func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), http.Header{"Content-Type": {"application/grpc"}, "Grpc-Status": {"7"}})
	})
	k := g.call(t, "application/grpc", "question")
	if k.err != nil || k.Header.Get("Grpc-Status") != "7" || k.ContentLength != 0 {
		t.Errorf("the call gave %+v, %v; want a head with the status, and nothing behind it", k.Response, k.err)
	}
	g.free(t)
}

// TestGRPCEnds: who leaves in the middle is missed by the other side.
func TestGRPCEnds(t *testing.T) {
	left := make(chan error, 1)
	g := newGRPCLab(t, routes.Pool{}, false, routes.Route{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		text, _ := readMessage(r.Body)
		_, _ = w.Write(message(text))
		_ = http.NewResponseController(w).Flush()
		if text == "leave me" {
			panic(http.ErrAbortHandler)
		}
		_, err := readMessage(r.Body)
		<-r.Context().Done()
		left <- errors.Join(err, r.Context().Err())
	})
	k := g.call(t, "application/grpc", "I leave")
	if _, err := readMessage(k.Body); err != nil {
		t.Error(err)
	}
	k.leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the server was told %v", err)
	}
	k = g.call(t, "application/grpc", "leave me")
	if _, err := readMessage(k.Body); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(k.Body); err == nil || len(k.Trailer) > 0 {
		t.Errorf("the server's end is %q with %v", b, k.Trailer)
	}
	g.free(t)
}

// TestGRPCTimeout: a server that begins no answer gets no more time than others.
func TestGRPCTimeout(t *testing.T) {
	g := newGRPCLab(t, routes.Pool{}, false, routes.Route{Proxy: &routes.Proxy{ResponseTimeout: 100 * time.Millisecond}}, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
	})
	if k := g.call(t, "application/grpc", "question"); k.err != nil || k.StatusCode != 504 {
		t.Errorf("the call gave %+v, %v; want 504", k.Response, k.err)
	}
	g.free(t)
}

// TestGRPCBackPressure: what one side does not take the other one can't go on saying, in both directions.
func TestGRPCBackPressure(t *testing.T) {
	const most = 8 << 20 // what both connections, and what is between them, may hold
	listen := make(chan struct{})
	said := make(chan int, 1)
	g := newGRPCLab(t, routes.Pool{}, false, routes.Route{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		_ = http.NewResponseController(w).Flush()
		if text, _ := readMessage(r.Body); text == "talk" {
			n := 0
			for chunk := make([]byte, 64<<10); r.Context().Err() == nil; n += len(chunk) {
				_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				if _, err := w.Write(chunk); err != nil {
					break
				}
			}
			said <- n
			return
		}
		<-listen
		_, _ = io.Copy(io.Discard, r.Body)
	})
	k := g.call(t, "application/grpc", "talk")
	if n := <-said; n > most {
		t.Errorf("the server could say %d bytes to a client that does not listen", n)
	}
	k.leave()
	k = g.call(t, "application/grpc", "listen")
	n, stalled := 0, make(chan struct{})
	const pause = 300 * time.Millisecond
	idle := time.AfterFunc(pause, sync.OnceFunc(func() { close(stalled) })) // once: what it stalled on may still have got through
	defer idle.Stop()
	done := make(chan struct{})
	go func() { // ends with the call
		defer close(done)
		for chunk := make([]byte, 64<<10); ; {
			if _, err := k.say.Write(chunk); err != nil {
				return
			}
			if n += len(chunk); n > 2*most || !idle.Reset(pause) {
				return
			}
		}
	}()
	<-stalled
	k.leave()
	close(listen)
	<-done
	if n > most {
		t.Errorf("the client could say %d bytes to a server that does not listen", n)
	}
	g.free(t)
}
