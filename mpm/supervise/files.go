package supervise

import (
	"time"

	"gateway/internal/ctl"
)

// filesPeriod is how often it is looked whether files have changed whose bytes the front has.
const filesPeriod = 2 * time.Second

// watchFiles has somebody look, apart from the loop, which must not wait for the file system of another machine.
func (s *supervisor) watchFiles() error {
	if s.plan.Changed != nil {
		// It ends with the loop. Nobody waits for it: a look may take longer than a stop should.
		go watchFiles(s.plan.Changed, s.filesPeriod, s.files, s.done)
	}
	return nil
}

func watchFiles(changed func() []byte, period time.Duration, files chan<- []byte, done <-chan struct{}) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-done:
			return
		}
		b := changed()
		if b == nil {
			continue
		}
		select {
		case files <- b:
		case <-done:
			return
		}
	}
}

// filesChanged tells the front, and every later one.
func (s *supervisor) filesChanged(b []byte) {
	s.newest = b
	s.passFiles()
}

// passFiles sends what has changed since the setup was made.
func (s *supervisor) passFiles() {
	if s.newest == nil {
		return
	}
	blob, err := ctl.NewBlob(s.newest)
	if err != nil {
		s.log.Errorw("changed files can't be passed to the front: what it has before is used until they change again", "error", err)
		return
	}
	s.send(ctl.Message{Kind: ctl.Files}, blob, blob)
}
