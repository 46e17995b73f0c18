package mpm

// shelves hold the children of a pool that can take a request: the shelf of a child is the number of its threads that are
// busy. Requests go to the lowest shelf that is not empty, because threads of different processes do not wait for each other,
// as those of one Python process do. Of the children on one shelf the one that was put there last is taken first: its memory is
// warm, and the others get old enough to leave. In a prefork pool there is one shelf, of the idle children. Guarded by Pool.mu.
type shelves struct {
	tops   []*child
	lowest int // no lower shelf holds a child
}

const notShelved = -1

func newShelves(threads int) shelves { return shelves{tops: make([]*child, threads), lowest: threads} }

// put shelves a child of which n threads are busy, fewer than all.
func (s *shelves) put(c *child, n int) {
	c.shelf = n
	c.below = s.tops[n]
	if c.below != nil {
		c.below.above = c
	}
	s.tops[n] = c
	s.lowest = min(s.lowest, n)
}

// take removes a child from its shelf, if it is on one.
func (s *shelves) take(c *child) {
	if c.shelf == notShelved {
		return
	}
	if c.above == nil {
		s.tops[c.shelf] = c.below
	} else {
		c.above.below = c.below
	}
	if c.below != nil {
		c.below.above = c.above
	}
	c.above, c.below, c.shelf = nil, nil, notShelved
}

// first returns the child that is to take the next request, or nil. The shelves it passes were filled by as many calls of put.
func (s *shelves) first() *child {
	for ; s.lowest < len(s.tops); s.lowest++ {
		if c := s.tops[s.lowest]; c != nil {
			return c
		}
	}
	return nil
}
