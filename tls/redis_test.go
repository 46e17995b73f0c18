package tls

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"gateway/internal/gatewaytest"
	"gateway/routes"
)

func startRedis(t *testing.T, args ...string) *gatewaytest.Redis {
	t.Helper()
	if err := gatewaytest.Missing("redis-server", "redis-cli"); err != nil {
		t.Skip(err)
	}
	server, err := gatewaytest.StartRedis(t.TempDir(), args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func redisAt(server *gatewaytest.Redis) *routes.Redis {
	return &routes.Redis{Network: "tcp", Address: server.Address, Prefix: "gateway", Timeout: 5 * time.Second}
}

// openRedis is a storage until the test ends. back counts how often it has come back.
func openRedis(t *testing.T, settings *routes.Redis, files StorageFiles) (s *redisStorage, log *logbook, back chan struct{}) {
	t.Helper()
	log, back = new(logbook), make(chan struct{}, 100)
	s, err := newRedis(settings, files, log.log, func() { back <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(); s.close() })
	return s, log, back
}

// TestStorages has the folder and the server do the same.
func TestStorages(t *testing.T) {
	server := startRedis(t)
	remote, _, _ := openRedis(t, redisAt(server), StorageFiles{})
	for name, s := range map[string]certmagic.Storage{"folder": &certmagic.FileStorage{Path: t.TempDir()}, "redis": remote} {
		t.Run(name, func(t *testing.T) { testStorage(t, s) })
	}
	keys, err := server.Do("KEYS", "*")
	if err != nil || slices.ContainsFunc(strings.Fields(keys), func(k string) bool { return !strings.HasPrefix(k, "gateway:") }) {
		t.Errorf("keys on the server: %q, want only those that begin with the prefix; error %v", keys, err)
	}
}

func testStorage(t *testing.T, s certmagic.Storage) {
	ctx := t.Context()
	files := []string{"certificates/ca/a.example/a.example.crt", "certificates/ca/a.example/a.example.key", "certificates/ca/b.example/b.example.crt", "certificates/ca0/x"}
	for _, name := range files {
		if err := s.Store(ctx, name, []byte("first")); err != nil {
			t.Fatal(err)
		}
		if err := s.Store(ctx, name, []byte("\x00"+name)); err != nil {
			t.Fatal(err)
		}
		value, err := s.Load(ctx, name)
		if err != nil || string(value) != "\x00"+name {
			t.Errorf("Load(%q) = %q, %v, want what was stored last", name, value, err)
		}
		info, err := s.Stat(ctx, name)
		if err != nil || !info.IsTerminal || info.Size != int64(len(value)) || time.Since(info.Modified).Abs() > time.Minute {
			t.Errorf("Stat(%q) = %+v, %v", name, info, err)
		}
	}
	lists := []struct {
		folder    string
		recursive bool
		want      []string
	}{
		{"certificates", false, []string{"certificates/ca", "certificates/ca0"}},
		{"certificates/ca", false, []string{"certificates/ca/a.example", "certificates/ca/b.example"}},
		{"certificates/ca/a.example", true, files[:2]},
	}
	for _, row := range lists {
		if got, err := s.List(ctx, row.folder, row.recursive); err != nil || !slices.Equal(got, row.want) {
			t.Errorf("List(%q, %t) = %q, %v, want %q", row.folder, row.recursive, got, err, row.want)
		}
	}
	if info, err := s.Stat(ctx, "certificates/ca"); err != nil || info.IsTerminal {
		t.Errorf("Stat of a folder = %+v, %v", info, err)
	}
	if err := s.Delete(ctx, "certificates/ca"); err != nil {
		t.Error(err)
	}
	for _, name := range append(files[:3:3], "certificates/ca", "never") {
		_, loaded := s.Load(ctx, name)
		_, stated := s.Stat(ctx, name)
		_, listed := s.List(ctx, name, true)
		if !errors.Is(loaded, fs.ErrNotExist) || !errors.Is(stated, fs.ErrNotExist) || !errors.Is(listed, fs.ErrNotExist) || s.Exists(ctx, name) {
			t.Errorf("of %q, which is not there: Load %v, Stat %v, List %v, Exists %t", name, loaded, stated, listed, s.Exists(ctx, name))
		}
		if err := s.Delete(ctx, name); err != nil {
			t.Errorf("Delete(%q), which is not there: %v", name, err)
		}
	}
	if !s.Exists(ctx, files[3]) {
		t.Errorf("%q is gone with a folder whose name is the beginning of its own folder's", files[3])
	}
}

func TestRedisLock(t *testing.T) {
	server := startRedis(t)
	one, _, _ := openRedis(t, redisAt(server), StorageFiles{})
	other, _, _ := openRedis(t, redisAt(server), StorageFiles{})
	must := func(s *redisStorage, want bool, why string) {
		t.Helper()
		if ok, err := s.TryLock(t.Context(), "x"); ok != want || err != nil {
			t.Fatalf("TryLock = %t, %v, want %t: %s", ok, err, want, why)
		}
	}
	must(one, true, "it is free")
	must(other, false, "another gateway has it")
	must(one, false, "it is held already")
	if err := other.Unlock(t.Context(), "x"); err == nil {
		t.Errorf("Unlock by a gateway that has not the lock: no error")
	}
	// The server loses its memory. The holder's next renewal brings the lock back.
	if _, err := server.Do("FLUSHALL"); err != nil {
		t.Fatal(err)
	}
	if ok, err := one.take(t.Context(), one.locks["x"]); !ok || err != nil {
		t.Errorf("renewal of a lost lock: %t, %v", ok, err)
	}
	must(other, false, "it was renewed")
	if err := one.Unlock(t.Context(), "x"); err != nil {
		t.Error(err)
	}
	must(other, true, "it was given up")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := one.Lock(ctx, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("Lock with a context that is over: %v", err)
	}
	if err := other.Unlock(t.Context(), "x"); err != nil {
		t.Error(err)
	}
}

// TestRedisLockOutlivesNobody has a gateway end that holds a lock, and another one outlast its lease by renewals.
func TestRedisLockOutlivesNobody(t *testing.T) {
	server := startRedis(t)
	dead, _, _ := openRedis(t, redisAt(server), StorageFiles{})
	alive, _, _ := openRedis(t, redisAt(server), StorageFiles{})
	next, _, _ := openRedis(t, redisAt(server), StorageFiles{})
	for s, name := range map[*redisStorage]string{dead: "of the dead", alive: "of the living"} {
		if err := s.Lock(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	dead.stop()
	begin := time.Now()
	if err := next.Lock(t.Context(), "of the dead"); err != nil {
		t.Fatal(err)
	}
	t.Logf("the lock of a gateway that is gone was free after %v", time.Since(begin).Round(time.Millisecond))
	// The lease of the living one was as old, and would be over, too.
	if ok, err := next.TryLock(t.Context(), "of the living"); ok || err != nil {
		t.Errorf("the lock of a living gateway is taken over: %t, %v", ok, err)
	}
}

func TestRedisGone(t *testing.T) {
	rows := []struct {
		name       string
		leave      func(*gatewaytest.Redis) error
		comeAgain  func(*gatewaytest.Redis) error
		wantReason string
	}{
		{"the server was killed", (*gatewaytest.Redis).Kill, (*gatewaytest.Redis).Start, "connection refused"},
		{
			"the server hangs",
			func(r *gatewaytest.Redis) error { return r.Signal(syscall.SIGSTOP) },
			func(r *gatewaytest.Redis) error { return r.Signal(syscall.SIGCONT) }, "timeout",
		},
		{
			"the password was changed",
			func(r *gatewaytest.Redis) error {
				_, err := r.Do("CONFIG", "SET", "requirepass", "other")
				return errors.Join(err, dropClients(r, "other"))
			},
			func(r *gatewaytest.Redis) error {
				_, err := r.Do("-a", "other", "CONFIG", "SET", "requirepass", "")
				return err
			}, "NOAUTH",
		},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			server := startRedis(t)
			settings := redisAt(server)
			settings.Timeout = 2 * time.Second // one that hangs is waited for so long
			s, log, back := openRedis(t, settings, StorageFiles{})
			if err := s.Store(t.Context(), "a", []byte("1")); err != nil {
				t.Fatal(err)
			}
			if err := row.leave(server); err != nil {
				t.Fatal(err)
			}
			for range 1000 { // at a timeout each this would last half an hour
				if _, err := s.Load(t.Context(), "a"); err == nil || errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("Load: %v, want that the server can't be reached", err)
				}
			}
			if s.Exists(t.Context(), "a") {
				t.Errorf("Exists = true of what nobody can see")
			}
			_, err := s.trouble()
			if err == nil || !strings.Contains(err.Error(), row.wantReason) || !strings.Contains(err.Error(), "redis at "+server.Address) {
				t.Errorf("trouble: %v, want %q", err, row.wantReason)
			}
			if err := row.comeAgain(server); err != nil {
				t.Fatal(err)
			}
			<-back
			if value, err := s.Load(t.Context(), "a"); err != nil || string(value) != "1" {
				t.Errorf("Load = %q, %v, once the server is back", value, err)
			}
			if log.count("shared storage can't be reached") != 1 || log.count("shared storage answers again") != 1 {
				t.Errorf("the log has not one line for the beginning and the end:\n%s", strings.Join(log.all(), "\n"))
			}
		})
	}
}

// dropClients has all clients connect anew.
func dropClients(r *gatewaytest.Redis, password string) error {
	_, err := r.Do("-a", password, "CLIENT", "KILL", "TYPE", "normal")
	return err
}

// TestRedisRefuses has the server answer, but not as wished: what can be read is still read.
func TestRedisRefuses(t *testing.T) {
	rows := []struct {
		name   string
		refuse []string
		want   string
	}{
		{"it is full", []string{"CONFIG", "SET", "maxmemory", "1"}, "OOM command not allowed when used memory > 'maxmemory'"},
		{"it is a copy", []string{"REPLICAOF", "127.0.0.1", "1"}, "READONLY You can't write against a read only replica"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			server := startRedis(t)
			s, log, _ := openRedis(t, redisAt(server), StorageFiles{})
			if err := s.Store(t.Context(), "a", []byte("1")); err != nil {
				t.Fatal(err)
			}
			if _, err := server.Do(row.refuse...); err != nil {
				t.Fatal(err)
			}
			if err := s.Store(t.Context(), "b", []byte("2")); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("Store: %v, want %q", err, row.want)
			}
			if _, err := s.TryLock(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("TryLock: %v, want %q", err, row.want)
			}
			if value, err := s.Load(t.Context(), "a"); err != nil || string(value) != "1" {
				t.Errorf("Load = %q, %v", value, err)
			}
			if len(log.all()) > 0 {
				t.Errorf("the log has %q, want nothing: who has asked tells", log.all())
			}
		})
	}
}

// TestRedisConnections connects in all the ways that the configuration has.
func TestRedisConnections(t *testing.T) {
	folder := t.TempDir()
	cert, key := validPair(t, "redis.example")
	certFile, keyFile := filepath.Join(folder, "crt"), filepath.Join(folder, "key")
	if err := errors.Join(os.WriteFile(certFile, cert, 0o600), os.WriteFile(keyFile, key, 0o600)); err != nil {
		t.Fatal(err)
	}
	address, err := gatewaytest.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	server := startRedis(t, "--tls-port", strings.TrimPrefix(address, "127.0.0.1:"), "--tls-cert-file", certFile, "--tls-key-file", keyFile, "--tls-ca-cert-file", certFile)
	if _, err := server.Do("ACL", "SETUSER", "gateway", "on", ">secret", "~g:*", "-@all", "+@read", "+@write", "+@scripting", "-@dangerous", "+ping"); err != nil {
		t.Fatal(err)
	}
	mutual := routes.ClientTLS{CARoot: "given", ServerName: "redis.example", Certificate: "given"}
	all := StorageFiles{CARoots: cert, Certificate: cert, Key: key}
	rows := []struct {
		name     string
		settings routes.Redis
		files    StorageFiles
		want     string // in the error; empty: none
	}{
		{"over TCP", routes.Redis{Network: "tcp", Address: server.Address, Prefix: "g"}, StorageFiles{}, ""},
		{"over a unix socket, in another database", routes.Redis{Network: "unix", Address: server.Socket, Prefix: "g", Database: 3}, StorageFiles{}, ""},
		{"over a unix socket that is not there", routes.Redis{Network: "unix", Address: filepath.Join(folder, "none"), Prefix: "g"}, StorageFiles{}, "no such file or directory"},
		{"as a user with few rights", routes.Redis{Network: "tcp", Address: server.Address, Prefix: "g", Username: "gateway", Password: "secret"}, StorageFiles{}, ""},
		{"with the password of a file", routes.Redis{Network: "tcp", Address: server.Address, Prefix: "g", Username: "gateway"}, StorageFiles{Password: []byte("secret")}, ""},
		{"with a wrong password", routes.Redis{Network: "tcp", Address: server.Address, Prefix: "g", Username: "gateway", Password: "x"}, StorageFiles{}, "WRONGPASS"},
		{"with names that the user may not have", routes.Redis{Network: "tcp", Address: server.Address, Prefix: "other", Username: "gateway", Password: "secret"}, StorageFiles{}, "NOPERM"},
		{"over TLS, both sides with a certificate", routes.Redis{Network: "tcp", Address: address, Prefix: "g", TLS: &mutual}, all, ""},
		{"over TLS, without the certificate it asks for", routes.Redis{Network: "tcp", Address: address, Prefix: "g", TLS: &routes.ClientTLS{CARoot: "given", ServerName: "redis.example"}}, all, "redis at "},
		{"over TLS, to a server with another name", routes.Redis{Network: "tcp", Address: address, Prefix: "g", TLS: &routes.ClientTLS{CARoot: "given"}}, all, "x509: "},
		{"over TLS, to a server that the system does not trust", routes.Redis{Network: "tcp", Address: address, Prefix: "g", TLS: &routes.ClientTLS{ServerName: "redis.example"}}, all, "x509: "},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			row.settings.Timeout = 5 * time.Second
			s, _, _ := openRedis(t, &row.settings, row.files)
			if _, err := s.Load(t.Context(), "none"); errors.Is(err, fs.ErrNotExist) != (row.want == "") {
				t.Errorf("Load of a file that is not there: %v", err)
			}
			err := errors.Join(s.Store(t.Context(), "a/b", []byte("1")), s.Lock(t.Context(), "x"))
			if err == nil {
				err = errors.Join(s.Unlock(t.Context(), "x"), s.Delete(t.Context(), "a"))
			}
			if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("error %v, want %q", err, row.want)
			}
		})
	}
	for name, settings := range map[string]routes.Redis{
		"no certificate in given": {Address: address, TLS: &routes.ClientTLS{CARoot: "given"}},
		"certificate: ":           {Address: address, TLS: &routes.ClientTLS{Certificate: "given"}},
	} {
		if _, err := newRedis(&settings, StorageFiles{}, nil, nil); err == nil || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("newRedis with files that hold nothing: %v, want %q", err, name)
		}
	}
}
