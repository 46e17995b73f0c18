package proxy

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// recentPlaces is how many scripts an application's requests may take turns with before they push each other out.
const recentPlaces = 1024

// recentFiles remembers which paths were files a moment ago: asking the kernel takes three calls, more than a tenth of what a
// short request of a script costs. Only what exists is remembered, so a new file is seen at once. Safe for concurrent use.
type recentFiles struct {
	places [recentPlaces]atomic.Pointer[recentFile]
}

type recentFile struct {
	path string
	seen time.Time
}

// recentSeed is for this process: nobody outside can tell which paths share a place.
var recentSeed = maphash.MakeSeed()

func (r *recentFiles) place(path string) *atomic.Pointer[recentFile] {
	return &r.places[maphash.String(recentSeed, path)%recentPlaces]
}

func (r *recentFiles) has(path string) bool {
	f := r.place(path).Load()
	return f != nil && f.path == path && time.Since(f.seen) < folderCheck
}

func (r *recentFiles) add(path string) {
	r.place(path).Store(&recentFile{path, time.Now()})
}
