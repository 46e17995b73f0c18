package supervise

import "testing"

func TestTheFrontHearsOfChangedFilesAndTheNextOneOfTheNewest(t *testing.T) {
	r := newRig(t)
	r.set.Changed = []string{"one", "two"}
	first := r.start()
	first.until("the newest files", func(l said) bool { return l.Output == "files two <nil>" })
	kill(t, first.pid)
	second := <-r.sessions
	before := true // the setup
	second.until("the newest files", func(l said) bool {
		before = before && l.Output != "the setup"
		return l.Output == "files two <nil>"
	})
	if !before {
		t.Error("the files came after the setup")
	}
}
