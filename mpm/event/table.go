package event

import (
	"net"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The owner states of a connection. Everything but Owned belongs to the loop; an owned connection belongs to one goroutine.
const (
	stateFree   uint32 = iota // no connection
	stateParked               // waits for a request, or for the rest of one
	stateOwned                // a goroutine serves it
	stateLinger               // answered and half closed; what still comes in is thrown away
	stateHeld                 // waits for the answer of an Upstream; flags tell what came meanwhile
	stateMask   uint32 = 7
)

// What the loop saw while a goroutine owned the connection, or while it was held.
const (
	flagReadable uint32 = 8 << iota // bytes may have come since the last read that found none
	flagWritable                    // room may have come since the last write that found none
	flagHalf                        // the client has closed its writing side
	flagGone                        // the connection is dead
	flagExpired                     // its deadline has passed
	// flagPark are those with which a connection can't be parked: the owner has to look first.
	flagPark = flagReadable | flagHalf | flagGone | flagExpired
)

// entry is a connection as its loop knows it. It holds no pointer, so that the garbage collector has nothing to scan.
type entry struct {
	state    atomic.Uint32 // owner state and flags
	gen      atomic.Uint32 // counts the lives of this place: an event of an earlier one is dropped
	deadline atomic.Uint32 // engine seconds; 0: none
	fd       int32
	drained  int32 // bytes thrown away while lingering
	requests uint32
	born     uint32 // engine seconds: when it was accepted
	begun    uint32 // likewise: when the incomplete head did
	listener uint16
	port     uint16
	family   uint8 // 4, 6, or 0 for a unix socket
	watched  bool  // epoll tells of it
	named    bool  // see Turn.Name
	addr     [16]byte
}

// peer is the client's address; zero for a unix socket.
func (en *entry) peer() netip.AddrPort {
	switch en.family {
	case 4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(en.addr[:4])), en.port)
	case 6:
		return netip.AddrPortFrom(netip.AddrFrom16(en.addr), en.port)
	}
	return netip.AddrPort{}
}

// name replaces the client's address.
func (en *entry) name(peer netip.AddrPort) {
	a := peer.Addr().Unmap()
	en.port = peer.Port()
	if a.Is4() {
		a4 := a.As4()
		en.family = 4
		copy(en.addr[:], a4[:])
		return
	}
	en.family, en.addr = 6, a.As16()
}

func (en *entry) remote() net.Addr {
	if en.family == 0 {
		return &net.UnixAddr{Net: "unix"}
	}
	return net.TCPAddrFromAddrPort(en.peer())
}

// count counts a request.
func (en *entry) count() int {
	en.requests++
	return int(en.requests)
}

// set replaces the owner state and forgets the flags in drop. It keeps flags that arrive meanwhile.
func (en *entry) set(state, drop uint32) {
	for {
		old := en.state.Load()
		if en.state.CompareAndSwap(old, (old&^(drop|stateMask))|state) {
			return
		}
	}
}

// flag adds flags if the connection is owned, and reports whether it is.
func (en *entry) flag(flags uint32) bool {
	for {
		old := en.state.Load()
		if old&stateMask != stateOwned {
			return false
		}
		if old&flags == flags || en.state.CompareAndSwap(old, old|flags) {
			return true
		}
	}
}

// take removes flags.
func (en *entry) take(flags uint32) { en.state.And(^flags) }

const chunkSize = 256

// chunk is a piece of a loop's table. Chunks never move, so a goroutine can keep a pointer to its entry. The pointers stand
// first: the collector stops scanning after them.
type chunk struct {
	owner   [chunkSize]atomic.Pointer[Conn] // who serves it
	session [chunkSize]any                  // what the protocol keeps of a parked connection (TLS), or whom a held one waits for (*Upstream); the loop's meanwhile
	partial [chunkSize]*[]byte              // the beginning of a request; likewise
	entries [chunkSize]entry
}

// table is the connections of one loop.
type table struct {
	chunks atomic.Pointer[[]*chunk]
	free   []uint32 // under the loop's mutex
}

func (t *table) chunk(index uint32) *chunk { return (*t.chunks.Load())[index/chunkSize] }

func (t *table) entry(index uint32) *entry { return &t.chunk(index).entries[index%chunkSize] }

// each visits every place, free ones too.
func (t *table) each(visit func(index uint32, en *entry)) {
	chunks := t.chunks.Load()
	if chunks == nil {
		return
	}
	for c, ch := range *chunks {
		for i := range ch.entries {
			visit(uint32(c*chunkSize+i), &ch.entries[i])
		}
	}
}

// grow adds a chunk. The loop's mutex is held.
func (t *table) grow() {
	var chunks []*chunk
	if old := t.chunks.Load(); old != nil {
		chunks = append(chunks, *old...)
	}
	first := uint32(len(chunks)) * chunkSize
	chunks = append(chunks, new(chunk))
	t.chunks.Store(&chunks)
	for i := uint32(chunkSize); i > 0; i-- {
		t.free = append(t.free, first+i-1)
	}
}

// setPeer stores what accept4 said of the client.
func (en *entry) setPeer(rsa *unix.RawSockaddrAny) {
	switch rsa.Addr.Family {
	case unix.AF_INET:
		p := (*unix.RawSockaddrInet4)(ptr(rsa))
		en.name(netip.AddrPortFrom(netip.AddrFrom4(p.Addr), swap(p.Port)))
	case unix.AF_INET6:
		p := (*unix.RawSockaddrInet6)(ptr(rsa))
		en.name(netip.AddrPortFrom(netip.AddrFrom16(p.Addr), swap(p.Port)))
	default:
		en.family = 0
	}
}

func swap(port uint16) uint16 { return port<<8 | port>>8 }
