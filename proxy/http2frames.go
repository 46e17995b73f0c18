package proxy

import (
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// frameHeader begins each frame (RFC 9113 §4.1).
type frameHeader struct {
	length uint32 // of what follows
	kind   http2.FrameType
	flags  http2.Flags
	stream uint32
}

const frameHeaderLen = 9

// frameScanner finds the headers of frames in the bytes of a connection as they pass, in whatever pieces. The zero value is ready
// for the first of them.
type frameScanner struct {
	left uint32 // bytes before the next header
	have int    // bytes of that header
	head [frameHeaderLen]byte
}

// next returns the next header that data completes, and what follows it. ok is false when there is none, and data is used up.
func (s *frameScanner) next(data []byte) (h frameHeader, rest []byte, ok bool) {
	skip := min(int(s.left), len(data))
	s.left -= uint32(skip)
	data = data[skip:]
	n := copy(s.head[s.have:], data)
	if s.have += n; s.have < frameHeaderLen {
		return h, nil, false
	}
	s.have = 0
	h = frameHeader{
		length: binary.BigEndian.Uint32(s.head[:]) >> 8,
		kind:   http2.FrameType(s.head[3]),
		flags:  http2.Flags(s.head[4]),
		stream: binary.BigEndian.Uint32(s.head[5:]) &^ (1 << 31),
	}
	s.left = h.length
	return h, data[n:], true
}

// between reports whether a frame may begin here.
func (s *frameScanner) between() bool { return s.left == 0 && s.have == 0 }

func appendGoAway(b []byte, last uint32, code http2.ErrCode) []byte {
	b = append(b, 0, 0, 8, byte(http2.FrameGoAway), 0, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

// errFlood ends a connection.
var errFlood = errors.New("HTTP/2 connection is flooded with frames")

// What a connection may do that costs its client nothing. Frames that are part of an ordinary exchange are paid for by that, and
// some more are given for each second.
const (
	maxPatience     = 1000
	patienceRate    = 100 // a second
	usefulFrame     = 1 << 10
	costReset       = 5 // either side's: a client can have its requests reset instead of doing so itself (CVE-2025-8671)
	costSettings    = 5 // they are to be acknowledged
	costPing        = 2 // likewise
	costEmptyPiece  = 10
	costOther       = 1
	maxPadding      = 1 + 255 // bytes, with their number: a frame of so many may have no other (RFC 9113 §6.1)
	earnResponse    = 2
	earnUsefulFrame = 2 // at least what one that opens the window for the next costs, on its stream and on the connection

	// maxLate is how many frames of an upload come after its answer: what the client may send before it is read, in small ones.
	maxLate = streamWindow / usefulFrame
)

// look has a look at what the client sends.
func (s *session) look(p []byte) error {
	for {
		h, rest, ok := s.seen.next(p)
		if !ok {
			return nil
		}
		if h.kind == http2.FrameHeaders {
			s.newest = max(s.newest, h.stream)
		}
		if !s.patience.spend(h.cost()) {
			return errFlood
		}
		p = rest
	}
}

// cost is what a client pays for a frame.
func (h frameHeader) cost() int {
	switch h.kind {
	case http2.FrameHeaders:
		return 0 // requests are limited as such
	case http2.FrameData:
		padded := h.flags.Has(http2.FlagDataPadded) && h.length <= maxPadding
		if h.length > 0 && !padded || h.flags.Has(http2.FlagDataEndStream) {
			return 0
		}
		return costOther
	case http2.FrameContinuation:
		if h.length < usefulFrame {
			return costEmptyPiece
		}
		return costOther
	case http2.FrameRSTStream:
		return costReset
	case http2.FrameSettings, http2.FramePing:
		switch {
		case h.flags.Has(http2.FlagSettingsAck):
			return costOther
		case h.kind == http2.FrameSettings:
			return costSettings
		}
		return costPing
	default:
		return costOther
	}
}

// note has a look at what is sent to the client. It is not to be sent after an error.
func (s *session) note(p []byte) error {
	before := s.sent
	for {
		h, rest, ok := s.sent.next(p)
		if !ok {
			return nil
		}
		switch {
		case h.kind == http2.FrameRSTStream && !s.ended.expects(h.stream):
			s.ended.add(h.stream)
			s.noteEnd()
			if !s.patience.spend(costReset) {
				s.sent = before
				return errFlood
			}
		case (h.kind == http2.FrameData || h.kind == http2.FrameHeaders) && h.flags.Has(http2.FlagDataEndStream):
			s.ended.add(h.stream)
			s.noteEnd()
			s.patience.earn(earnResponse)
		case h.kind == http2.FrameData && h.length >= usefulFrame:
			s.patience.earn(earnUsefulFrame)
		}
		p = rest
	}
}

// endedStreams are the last streams of a connection that were answered or reset. Of an upload that nobody wanted more may be on its
// way then, and each frame of that is answered with a reset.
type endedStreams struct {
	ids    []uint32 // of maxStreams at most
	resets []uint16 // since
	oldest int      // once there are that many
}

// expects counts a reset, and reports whether it is only the answer to such a frame.
func (e *endedStreams) expects(id uint32) bool {
	i := slices.Index(e.ids, id)
	if i < 0 {
		return false
	}
	e.resets[i]++
	return e.resets[i] <= maxLate
}

func (e *endedStreams) add(id uint32) {
	switch {
	case slices.Contains(e.ids, id):
	case len(e.ids) < maxStreams:
		e.ids, e.resets = append(e.ids, id), append(e.resets, 0)
	default:
		e.ids[e.oldest], e.resets[e.oldest] = id, 0
		e.oldest = (e.oldest + 1) % maxStreams
	}
}

// patience is how much more the frames of a connection may cost.
type patience struct {
	mu   sync.Mutex
	left int       // below 0: it is lost for good
	at   time.Time // of the last refill
}

// spend reports whether there was enough.
func (p *patience) spend(cost int) bool {
	if cost == 0 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left >= 0 && p.left < cost {
		p.refill()
	}
	if p.left >= 0 {
		p.left -= cost
	}
	return p.left >= 0
}

// refill gives what the time since the last one has earned. The mutex is held.
func (p *patience) refill() {
	now := time.Now()
	p.left = min(p.left+int(now.Sub(p.at)*patienceRate/time.Second), maxPatience)
	p.at = now
}

func (p *patience) earn(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left >= 0 {
		p.left = min(p.left+n, maxPatience)
	}
}

// lost reports whether spend has ever failed.
func (p *patience) lost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left < 0
}
