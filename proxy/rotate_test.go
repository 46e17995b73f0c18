package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gateway/routes"
)

func TestRotation(t *testing.T) {
	tests := []struct {
		name    string
		maxSize int64
		keep    int
		before  map[string]string // files that are there, by what follows the log's name
		want    map[string]string
	}{
		{"without a size the file grows", 0, 0, nil, map[string]string{"": "1\n2\n3\n4\n"}},
		{"a file below its size grows", 9, 2, nil, map[string]string{"": "1\n2\n3\n4\n"}},
		{"a file that has its size is put aside", 4, 2, nil, map[string]string{"": "", ".1": "3\n4\n", ".2": "1\n2\n"}},
		{"the oldest is overwritten", 2, 2, nil, map[string]string{"": "", ".1": "4\n", ".2": "3\n"}},
		{"what was in the file counts", 8, 1, map[string]string{"": "old\n"}, map[string]string{"": "3\n4\n", ".1": "old\n1\n2\n"}},
		{"older files make room", 8, 3, map[string]string{".1": "a", ".2": "b"}, map[string]string{"": "", ".1": "1\n2\n3\n4\n", ".2": "a", ".3": "b"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "access.log")
			for suffix, text := range tt.before {
				if err := os.WriteFile(path+suffix, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				l, err := NewAccessLog(routes.AccessLog{Path: path, Format: "%u", MaxSize: tt.maxSize, Keep: tt.keep})
				if err != nil {
					t.Fatal(err)
				}
				for i := range 4 {
					logUsers(l, fmt.Sprint(i+1))
					time.Sleep(logFlushEvery)
					synctest.Wait()
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
			got := map[string]string{}
			names, _ := filepath.Glob(path + "*")
			for _, name := range names {
				b, err := os.ReadFile(name)
				if err != nil {
					t.Error(err)
				}
				got[strings.TrimPrefix(name, path)] = string(b)
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("files %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRotationThatFailsLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	if err := os.MkdirAll(path+".1/full", 0o755); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 10)
	synctest.Test(t, func(t *testing.T) {
		l, err := NewAccessLog(routes.AccessLog{Path: path, Format: "%u", MaxSize: 2, Keep: 1},
			WithAccessLogWarning(func(msg string, _ ...any) { said <- msg }))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			logUsers(l, "x")
			time.Sleep(logFlushEvery)
			synctest.Wait()
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if got, err := os.ReadFile(path); string(got) != "x\nx\nx\n" || err != nil {
		t.Errorf("file %q, %v, want all lines", got, err)
	}
	if all := drainStrings(said); len(all) != 1 || !strings.Contains(all[0], "can't be rotated") {
		t.Errorf("warnings %q, want one", all)
	}
}
