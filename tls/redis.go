package tls

import (
	"cmp"
	"context"
	"crypto/rand"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/gomodule/redigo/redis"

	"gateway/routes"
)

const (
	// lockLease is how long the lock of a gateway lasts that was killed, and lockRefresh how often a living one renews it: it may
	// fail to twice.
	lockLease   = 10 * time.Second
	lockRefresh = 3 * time.Second
	lockPoll    = time.Second // until a lock is tried again that another one has

	// probeInterval is how often a server is asked that can't be reached.
	probeInterval = 2 * time.Second

	maxRedisConns = 16
	redisIdleTime = time.Minute // until a connection is closed that nobody uses
)

// redisStorage keeps what a fleet shares on a Redis server. Of certmagic's files each is a hash, PREFIX:file:NAME, with its value
// and the time of its change; PREFIX:files is a sorted set of all names, for there are folders in them; PREFIX:lock:NAME is a lock
// with the token of its holder.
//
// A server that can't be reached costs one operation its timeout. Then all fail at once until it answers again: certmagic holds
// its cache, which handshakes need, during some of them, and whoever knocks can bring others about.
//
// It implements certmagic.Storage and certmagic.TryLocker. Safe for concurrent use.
type redisStorage struct {
	// Immutable.
	pool    *redis.Pool
	address string
	prefix  string
	timeout time.Duration // of one operation
	log     Log
	back    func() // called when the server answers again
	ctx     context.Context
	cancel  context.CancelFunc

	background sync.WaitGroup // those that watch for the server and keep locks

	mu    sync.Mutex // guards what follows
	locks map[string]*lock
	away  error // why the server can't be reached; nil: it can, as far as is known
	since time.Time
}

// lock is one that this process holds. Immutable.
type lock struct {
	key, token string
	release    context.CancelFunc // ends who keeps it
	kept       chan struct{}      // closed when nobody does any more
}

// command has the server do something on one connection.
type command func(name string, args ...any) (reply any, err error)

// holdScript takes a lock, or renews it: also one that was lost with the server's memory. 0: another one has it.
const holdScript = `
local holder = redis.call("GET", KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
return 1`

// releaseScript gives a lock up, unless another one has it by now.
const releaseScript = `
if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) end
return 0`

// newRedis does not connect. The caller must call stop and then close.
func newRedis(s *routes.Redis, files StorageFiles, log Log, back func()) (*redisStorage, error) {
	config, err := clientTLS(s, files)
	if err != nil {
		return nil, err
	}
	options := []redis.DialOption{
		redis.DialUsername(s.Username), redis.DialPassword(cmp.Or(string(files.Password), s.Password)), redis.DialDatabase(s.Database),
		redis.DialReadTimeout(s.Timeout), redis.DialWriteTimeout(s.Timeout), redis.DialContextFunc(dialReplies(config)),
	}
	r := &redisStorage{address: s.Address, prefix: s.Prefix, timeout: s.Timeout, log: log, back: back, locks: make(map[string]*lock)}
	r.pool = &redis.Pool{
		DialContext: func(ctx context.Context) (redis.Conn, error) {
			return redis.DialContext(ctx, s.Network, s.Address, options...)
		},
		// A server that was started again is none that can't be reached.
		TestOnBorrowContext: func(ctx context.Context, c redis.Conn, _ time.Time) error {
			_, err := redis.DoContext(c, ctx, "PING")
			return err
		},
		MaxIdle: maxRedisConns, MaxActive: maxRedisConns, Wait: true, IdleTimeout: redisIdleTime,
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// clientTLS returns nil without TLS.
func clientTLS(s *routes.Redis, files StorageFiles) (*stdtls.Config, error) {
	if s.TLS == nil {
		return nil, nil
	}
	host, _, err := net.SplitHostPort(s.Address)
	if err != nil {
		return nil, err
	}
	config, err := clientConfig(s.TLS, ClientFiles{files.CARoots, files.Certificate, files.Key})
	if err == nil {
		config.ServerName = cmp.Or(config.ServerName, host)
	}
	return config, err
}

// stop ends what goes on in the background. Operations still work, so that locks can be given up.
func (s *redisStorage) stop() {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.background.Wait()
}

func (s *redisStorage) close() {
	if err := s.pool.Close(); err != nil {
		s.log("debug", "connections to the shared storage", "error", err)
	}
}

// String names the storage in errors and logs.
func (s *redisStorage) String() string { return "redis at " + s.address }

// named tells which storage an error is of, and hides its kind: a socket that is missing is no file that is missing.
func (s *redisStorage) named(err error) error { return errors.New(s.String() + ": " + err.Error()) }

// do runs an operation, unless the server is known not to answer.
func (s *redisStorage) do(ctx context.Context, operation func(command) error) error {
	if _, err := s.trouble(); err != nil {
		return err
	}
	err := s.run(ctx, operation)
	var none absent
	switch {
	case err == nil || errors.As(err, &none):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case unreachable(err):
		return s.lost(err)
	}
	return s.named(err)
}

func (s *redisStorage) run(ctx context.Context, operation func(command) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	conn, err := s.pool.GetContext(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // the operation has told what was wrong with it
	return operation(func(name string, args ...any) (any, error) { return redis.DoContext(conn, ctx, name, args...) })
}

// unreachable tells a server that does not answer, or not to us, from one that refuses a command, as a full one does, or answers nonsense.
func unreachable(err error) bool {
	var answer redis.Error
	if !errors.As(err, &answer) {
		return !errors.Is(err, errReply) // one bad file is no reason to leave the others alone
	}
	code, _, _ := strings.Cut(string(answer), " ")
	return slices.Contains([]string{"NOAUTH", "WRONGPASS", "LOADING"}, code) || strings.HasPrefix(string(answer), "ERR max number of clients")
}

// trouble is why the server can't be reached, and since when; nil if it can.
func (s *redisStorage) trouble() (since time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.since, s.away
}

// lost has all operations fail until the server answers again.
func (s *redisStorage) lost(err error) error {
	err = s.named(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away == nil && s.ctx.Err() == nil {
		s.away, s.since = err, time.Now()
		s.log("error", "shared storage can't be reached: loaded certificates are served, and none is got or renewed until it is back", "error", err)
		s.background.Go(s.watch) // ends when the server answers, or with stop
	}
	return err
}

func (s *redisStorage) watch() {
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		if s.probe() {
			s.back()
			return
		}
	}
}

// probe reports whether the server answers again.
func (s *redisStorage) probe() bool {
	err := s.run(s.ctx, func(do command) error { _, err := do("PING"); return err })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && unreachable(err) {
		s.away = s.named(err) // the newest reason helps most
		return false
	}
	s.log("info", "shared storage answers again", "storage", s.String(), "away_for", time.Since(s.since).Round(time.Second))
	s.away = nil
	return true
}

func (s *redisStorage) file(name string) string { return s.prefix + ":file:" + name }

func (s *redisStorage) index() string { return s.prefix + ":files" }

// Store implements certmagic.Storage. A file is whole at once, in the list of names a moment later.
func (s *redisStorage) Store(ctx context.Context, name string, value []byte) error {
	return s.do(ctx, func(do command) error {
		_, err := do("HSET", s.file(name), "value", value, "modified", time.Now().UnixMilli())
		if err == nil {
			_, err = do("ZADD", s.index(), 0, name)
		}
		return err
	})
}

// Load implements certmagic.Storage.
func (s *redisStorage) Load(ctx context.Context, name string) (value []byte, err error) {
	err = s.do(ctx, func(do command) error {
		var err error
		value, err = redis.Bytes(do("HGET", s.file(name), "value"))
		if errors.Is(err, redis.ErrNil) {
			return absent(name)
		}
		return err
	})
	return value, err
}

// absent is a file or folder that is not on the server. A socket that is not on this machine is fs.ErrNotExist, too, and another
// thing.
type absent string

func (a absent) Error() string { return string(a) + ": " + fs.ErrNotExist.Error() }

// Is has certmagic find that there is none.
func (absent) Is(target error) bool { return target == fs.ErrNotExist }

// Delete implements certmagic.Storage. It removes a file, and all files below a folder.
func (s *redisStorage) Delete(ctx context.Context, name string) error {
	return s.do(ctx, func(do command) error {
		names, err := s.below(do, name)
		for _, name := range append(names, name) {
			if err == nil {
				_, err = do("DEL", s.file(name))
			}
			if err == nil {
				_, err = do("ZREM", s.index(), name)
			}
		}
		return err
	})
}

// Exists implements certmagic.Storage.
func (s *redisStorage) Exists(ctx context.Context, name string) bool {
	_, err := s.Stat(ctx, name)
	return err == nil
}

// Stat implements certmagic.Storage.
func (s *redisStorage) Stat(ctx context.Context, name string) (certmagic.KeyInfo, error) {
	info := certmagic.KeyInfo{Key: name}
	err := s.do(ctx, func(do command) error {
		modified, err := redis.Int64(do("HGET", s.file(name), "modified"))
		if errors.Is(err, redis.ErrNil) {
			names, err := s.below(do, name)
			if err == nil && len(names) == 0 {
				err = absent(name)
			}
			return err
		}
		if err != nil {
			return err
		}
		info.IsTerminal, info.Modified = true, time.UnixMilli(modified)
		info.Size, err = redis.Int64(do("HSTRLEN", s.file(name), "value"))
		return err
	})
	return info, err
}

// List implements certmagic.Storage. Folders are in the list only when what they hold is not.
func (s *redisStorage) List(ctx context.Context, folder string, recursive bool) (names []string, err error) {
	err = s.do(ctx, func(do command) error {
		var err error
		names, err = s.below(do, folder)
		if err == nil && len(names) == 0 {
			err = absent(folder)
		}
		return err
	})
	if !recursive {
		names = firstLevel(folder, names)
	}
	return names, err
}

// below lists all files in a folder and the folders in it, sorted.
func (s *redisStorage) below(do command, folder string) ([]string, error) {
	from, to := "-", "+"
	if folder != "" {
		from, to = "["+folder+"/", "("+folder+"0" // "0" follows "/"
	}
	return redis.Strings(do("ZRANGEBYLEX", s.index(), from, to))
}

// firstLevel has each file or folder right below a folder once.
func firstLevel(folder string, names []string) []string {
	start := 0
	if folder != "" {
		start = len(folder) + 1
	}
	for i, name := range names {
		if end := strings.IndexByte(name[start:], '/'); end >= 0 {
			names[i] = name[:start+end]
		}
	}
	return slices.Compact(names)
}

// Lock implements certmagic.Storage. It waits until nobody else has the lock.
func (s *redisStorage) Lock(ctx context.Context, name string) error {
	for {
		if ok, err := s.TryLock(ctx, name); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

// TryLock implements certmagic.TryLocker.
func (s *redisStorage) TryLock(ctx context.Context, name string) (bool, error) {
	l := &lock{key: s.prefix + ":lock:" + name, token: rand.Text(), kept: make(chan struct{})}
	if ok, err := s.take(ctx, l); !ok || err != nil {
		return false, err
	}
	keeping, cancel := context.WithCancel(s.ctx)
	l.release = cancel
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locks[name] = l
	if s.ctx.Err() != nil {
		close(l.kept)
	} else {
		s.background.Go(func() { s.keep(keeping, l, name) }) // ends with Unlock or stop
	}
	return true, nil
}

// take reports false when another one has the lock.
func (s *redisStorage) take(ctx context.Context, l *lock) (ok bool, err error) {
	err = s.do(ctx, func(do command) error {
		var err error
		ok, err = redis.Bool(do("EVAL", holdScript, 1, l.key, l.token, lockLease.Milliseconds()))
		return err
	})
	return ok, err
}

// keep renews a lock. While the server can't be reached it goes on trying.
func (s *redisStorage) keep(ctx context.Context, l *lock, name string) {
	defer close(l.kept)
	tick := time.NewTicker(lockRefresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ok, err := s.take(context.Background(), l); err == nil && !ok { // to its end: Unlock comes after it
			s.log("warn", "another gateway has taken a lock over, since the storage could not be reached: a certificate may be got twice", "lock", name)
			return
		}
	}
}

// Unlock implements certmagic.Storage.
func (s *redisStorage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	l := s.locks[name]
	delete(s.locks, name)
	s.mu.Unlock()
	if l == nil {
		return fmt.Errorf("lock %q is not held", name)
	}
	l.release()
	<-l.kept // or a renewal on its way could take the lock again
	return s.do(ctx, func(do command) error {
		_, err := do("EVAL", releaseScript, 1, l.key, l.token)
		return err
	})
}
