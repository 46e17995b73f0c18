package main

import (
	"fmt"
	"strconv"
	"strings"

	"gateway/routes"
)

// assumedChild is what a child takes at least whose pool states no limit: a php-cgi or a small Python application, in bytes.
const assumedChild = 16 << 20

// overcommitted says how the pools can take more memory together than there is; empty: they can't, as far as is known.
func overcommitted(c *routes.Config, total int64) string {
	var sum int64
	var parts []string
	for i := range c.Pools {
		p := &c.Pools[i]
		if p.MPM == routes.Event {
			continue
		}
		bytes, part := poolCeiling(p)
		sum += bytes
		parts = append(parts, part)
	}
	if sum <= total {
		return ""
	}
	return fmt.Sprintf("the children of all pools can take %s together, but there are %s of memory: %s. Lower max_request_workers or these limits; `gateway tune` measures what a child really takes",
		sizeText(sum), sizeText(total), strings.Join(parts, "; "))
}

// poolCeiling is how much memory the children of a pool can take, and how that was reckoned.
func poolCeiling(p *routes.Pool) (bytes int64, how string) {
	each, why := childCeiling(p)
	n := servingChildren(p)
	bytes = int64(n) * each
	if p.Cgroup != nil && p.Cgroup.MemoryMax > 0 && p.Cgroup.MemoryMax < bytes {
		return p.Cgroup.MemoryMax, fmt.Sprintf("pool %q: %s (cgroup memory_max)", p.Name, sizeText(p.Cgroup.MemoryMax))
	}
	return bytes, fmt.Sprintf("pool %q: %d x %s (%s) = %s", p.Name, n, sizeText(each), why, sizeText(bytes))
}

// servingChildren is how many children of a pool can serve at once.
func servingChildren(p *routes.Pool) int {
	return max(p.MaxRequestWorkers/max(p.ThreadsPerChild, 1), 1)
}

// childCeiling is the lowest limit that a pool states for the memory of one child, and which one it is.
func childCeiling(p *routes.Pool) (bytes int64, why string) {
	lower := func(limit int64, name string) {
		if limit > 0 && (bytes == 0 || limit < bytes) {
			bytes, why = limit, name
		}
	}
	lower(p.MaxChildMemory, "max_child_memory")
	if p.Cgroup != nil {
		lower(p.Cgroup.ChildMemoryMax, "cgroup child_memory_max")
	}
	if p.PHP != nil {
		lower(phpBytes(p.PHP.INI["memory_limit"]), "memory_limit")
	}
	if bytes == 0 {
		return assumedChild, "assumed: the pool states no limit"
	}
	return bytes, why
}

// phpBytes reads a size as PHP does: a number, and perhaps one of K, M and G. 0: no limit, or not a size.
func phpBytes(text string) int64 {
	text = strings.TrimSpace(text)
	shift := 0
	if text != "" {
		switch text[len(text)-1] {
		case 'k', 'K':
			shift = 10
		case 'm', 'M':
			shift = 20
		case 'g', 'G':
			shift = 30
		}
	}
	if shift > 0 {
		text = strings.TrimSpace(text[:len(text)-1])
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0
	}
	return n << shift
}
