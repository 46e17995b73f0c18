package tls

import (
	"context"
	"path"
	"time"

	"github.com/caddyserver/certmagic"

	"gateway/routes"
)

// Option changes what [New] makes.
type Option func(*Certificates)

// WithStorage keeps automatic certificates elsewhere than in the state directory.
func WithStorage(s routes.Storage, files StorageFiles) Option {
	return func(c *Certificates) { c.storage, c.storageFiles = s, files }
}

// StorageFiles holds the bytes of the files that a storage block names; they are empty where it names none.
type StorageFiles struct {
	Password, CARoots, Certificate, Key []byte
}

// StorageStatus tells of the storage that a fleet shares.
type StorageStatus struct {
	Name  string    `json:"name"`
	Error string    `json:"error,omitempty"` // why it can't be reached
	Since time.Time `json:"since,omitzero"`  // of Error
}

// StorageStatus is nil when the certificates of this configuration are in a folder, or there are none that are automatic.
func (c *Certificates) StorageStatus() *StorageStatus {
	if c.automatic == nil || c.automatic.redis == nil {
		return nil
	}
	r := c.automatic.redis
	s := &StorageStatus{Name: r.String()}
	if since, err := r.trouble(); err != nil {
		s.Error, s.Since = err.Error(), since
	}
	return s
}

// openStorage has certificates kept where the configuration says. What the server of a fleet has is also kept in the state directory,
// from which a start serves it without asking the server.
func (a *automatic) openStorage(stateDir string, s routes.Storage, files StorageFiles) error {
	folder := &certmagic.FileStorage{Path: stateDir}
	switch {
	case s.Redis != nil:
		r, err := newRedis(s.Redis, files, a.log, a.recheck)
		if err != nil {
			return err
		}
		a.storage, a.redis, a.copies = r, r, folder
	case s.Path != "":
		a.storage = &certmagic.FileStorage{Path: s.Path}
	default:
		a.storage = folder
	}
	return nil
}

// lockedStorage is a storage with all that certmagic makes use of.
type lockedStorage interface {
	certmagic.Storage
	certmagic.TryLocker
}

// ownAccounts hides which accounts there are. For a site without an email address certmagic would take the newest: another site's,
// or, while the first one is on its way into the storage, an account for the address "default", which CAs refuse then and ever after.
type ownAccounts struct{ lockedStorage }

// List implements certmagic.Storage.
func (s ownAccounts) List(ctx context.Context, folder string, recursive bool) ([]string, error) {
	if path.Base(folder) == "users" { // see certmagic's StorageKeys; ACME's are the only ones
		return nil, nil
	}
	return s.lockedStorage.List(ctx, folder, recursive)
}

// away is why the shared storage can't be reached; nil if it can, or it is a folder.
func (a *automatic) away() error {
	if a.redis == nil {
		return nil
	}
	_, err := a.redis.trouble()
	return err
}

// recheck takes up all names again that wait for their certificate: the storage is back.
func (a *automatic) recheck() {
	now := time.Now()
	a.mu.Lock()
	for _, m := range a.managed {
		m.retry, m.pause = now, 0
	}
	a.mu.Unlock()
	a.check(now)
}
