package proxy

import "gateway/mpm"

// lastSlot is the slot of a worker pool that served the connection's last request there; zero: none has.
func (k *conn) lastSlot() mpm.SlotID {
	if k.secure != nil {
		return k.secure.lastSlot
	}
	id, _ := k.raw.Session().(mpm.SlotID)
	return id
}

// remember keeps a slot for lastSlot, parked or not. A connection without TLS has no other use for its session, so one that
// never came to a worker pool costs nothing.
func (k *conn) remember(id mpm.SlotID) {
	switch {
	case k.secure != nil:
		k.secure.lastSlot = id
	case k.lastSlot() != id:
		k.raw.SetSession(id)
	}
}
