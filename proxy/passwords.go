package proxy

import (
	"context"
	"crypto/hmac"
	"crypto/md5" //nolint:gosec // apr1 is made of it
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/bcrypt"
)

const (
	// MaxPasswordBytes is the largest file of passwords that is read.
	MaxPasswordBytes = 1 << 20

	maxBcryptCost    = 14      // about a second
	maxPasswordText  = 1 << 10 // bytes of a password that is looked at: hashing takes time for each
	maxCheckWaiting  = 256     // requests that wait until their password is looked at
	maxKnownPassword = 4096    // of the passwords that were found right
)

// errManyChecks says that more clients want their password checked than the front has time for.
var errManyChecks = errors.New("too many passwords are being checked")

// users are the hashes of a file of passwords, by name. They are immutable.
type users struct {
	hashes map[string]string
	decoy  string // compared for a name that is not there, so that it takes as long
}

// CheckPasswords reports what in a file of passwords can't be used.
func CheckPasswords(text []byte) error {
	_, err := parseUsers(string(text))
	return err
}

// parseUsers reads the lines of htpasswd: NAME:HASH.
func parseUsers(text string) (*users, error) {
	u := &users{hashes: map[string]string{}}
	var errs []error
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		hash, _, _ = strings.Cut(hash, ":") // what follows is a comment
		reason := hashFault(hash)
		if !ok {
			reason = "no colon and no hash stand behind the name"
		}
		if reason != "" {
			errs = append(errs, fmt.Errorf("line %d: user %q: %s: run htpasswd -B FILE %s", number, name, reason, name))
			continue
		}
		u.hashes[name], u.decoy = hash, hash
	}
	return u, errors.Join(errs...)
}

func hashFault(hash string) string {
	switch {
	case isAPR1(hash):
		return ""
	case strings.HasPrefix(hash, "$2"):
		cost, err := bcrypt.Cost([]byte(hash))
		switch {
		case err != nil:
			return "the bcrypt hash is damaged"
		case cost > maxBcryptCost:
			return fmt.Sprintf("each look at a bcrypt hash of cost %d takes seconds, the most is %d", cost, maxBcryptCost)
		}
		return ""
	case strings.HasPrefix(hash, "{SHA}"):
		return "SHA-1 without salt is guessed within minutes"
	case strings.HasPrefix(hash, "$"):
		return "of the formats only bcrypt ($2y$) and apr1 ($apr1$) are known"
	}
	return "the password stands there itself, or is hashed with crypt, which looks at 8 characters"
}

// passwords are the files of all routes. They are safe for concurrent use.
type passwords struct {
	files   map[string]*atomic.Pointer[users] // immutable; nil within: the file could not be read yet
	working chan struct{}                     // has room for the checks that may run
	waiting atomic.Int32
	secret  [32]byte

	mu    sync.Mutex
	known map[[sha256.Size]byte]struct{} // what was right, under a key that nobody else knows
}

func newPasswords() *passwords {
	p := &passwords{files: map[string]*atomic.Pointer[users]{}, known: map[[sha256.Size]byte]struct{}{}}
	p.working = make(chan struct{}, max(runtime.GOMAXPROCS(0)/2, 1)) // the others go on with everything else
	_, _ = rand.Read(p.secret[:])                                    // never fails
	return p
}

// SetPasswords takes the content of a file, by its path, and returns how many users it has. What is wrong in it is the error; the
// other lines hold.
func (s *Server) SetPasswords(path string, text []byte) (count int, err error) {
	u, err := parseUsers(string(text))
	if f, ok := s.passwords.files[path]; ok {
		f.Store(u)
	}
	return len(u.hashes), err
}

// check reports whether a file has this user with this password. It waits while others are checked.
func (p *passwords) check(ctx context.Context, u *users, name, password string) (bool, error) {
	if len(password) > maxPasswordText || u.decoy == "" {
		return false, nil
	}
	hash, exists := u.hashes[name]
	if !exists {
		hash = u.decoy
	}
	key := p.key(hash, name, password)
	if exists && p.knows(key) {
		return true, nil
	}
	if p.waiting.Add(1) > maxCheckWaiting {
		p.waiting.Add(-1)
		return false, errManyChecks
	}
	defer p.waiting.Add(-1)
	select {
	case p.working <- struct{}{}:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	defer func() { <-p.working }()
	if !hashes(hash, password) || !exists {
		return false, nil
	}
	p.learn(key)
	return true, nil
}

// key stands for a right password. A new hash in the file makes it another one.
func (p *passwords) key(hash, name, password string) (key [sha256.Size]byte) {
	mac := hmac.New(sha256.New, p.secret[:])
	fmt.Fprintf(mac, "%d:%s%d:%s%s", len(hash), hash, len(name), name, password)
	mac.Sum(key[:0])
	return key
}

func (p *passwords) knows(key [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.known[key]
	return ok
}

func (p *passwords) learn(key [sha256.Size]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= maxKnownPassword {
		clear(p.known)
	}
	p.known[key] = struct{}{}
}

// hashes reports whether a hash is that of a password.
func hashes(hash, password string) bool {
	if isAPR1(hash) {
		salt, _, _ := strings.Cut(hash[len(apr1Magic):], "$")
		return subtle.ConstantTimeCompare([]byte(apr1(password, salt)), []byte(hash)) == 1
	}
	return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
}

const apr1Magic = "$apr1$"

// isAPR1 reports a well-formed hash of Apache's MD5: a salt of up to 8 characters, and 22 that stand for 16 bytes.
func isAPR1(hash string) bool {
	rest, ok := strings.CutPrefix(hash, apr1Magic)
	salt, digest, found := strings.Cut(rest, "$")
	return ok && found && len(salt) <= 8 && len(digest) == 22
}

// apr1 is the hash of a password as Apache's apr_md5_encode makes it.
func apr1(password, salt string) string {
	p := []byte(password)
	inner := md5.Sum([]byte(password + salt + password)) //nolint:gosec // see above
	d := md5.New()                                       //nolint:gosec // see above
	d.Write([]byte(password + apr1Magic + salt))
	for n := len(p); n > 0; n -= md5.Size {
		d.Write(inner[:min(n, md5.Size)])
	}
	for n := len(p); n > 0; n >>= 1 {
		if n&1 == 1 {
			d.Write([]byte{0})
		} else {
			d.Write(p[:1])
		}
	}
	sum := d.Sum(nil)
	for i := range 1000 {
		d.Reset()
		parts := [2][]byte{sum, p}
		d.Write(parts[i&1])
		if i%3 != 0 {
			d.Write([]byte(salt))
		}
		if i%7 != 0 {
			d.Write(p)
		}
		d.Write(parts[1-i&1])
		sum = d.Sum(nil)
	}
	return apr1Magic + salt + "$" + apr1Text(sum)
}

// apr1Text writes 16 bytes in crypt's base 64, in apr1's order of bytes.
func apr1Text(sum []byte) string {
	const digits = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	text := make([]byte, 0, 22)
	write := func(v uint, n int) {
		for range n {
			text, v = append(text, digits[v&63]), v>>6
		}
	}
	for _, at := range [...][3]int{{0, 6, 12}, {1, 7, 13}, {2, 8, 14}, {3, 9, 15}, {4, 10, 5}} {
		write(uint(sum[at[0]])<<16|uint(sum[at[1]])<<8|uint(sum[at[2]]), 4)
	}
	write(uint(sum[11]), 2)
	return string(text)
}
