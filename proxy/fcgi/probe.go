package fcgi

import (
	"fmt"
	"net"
)

// valueNames are what an application can be asked about itself (§4.1).
const (
	maxConns  = "FCGI_MAX_CONNS"
	maxReqs   = "FCGI_MAX_REQS"
	mpxsConns = "FCGI_MPXS_CONNS"
)

// Probe asks the application at the other end of a fresh connection a FastCGI management question, and returns nil when it has
// answered: it is ready for requests. An answer that it does not know the question will do. The connection is the caller's to
// close and should not be used further: php-cgi closes it.
func Probe(nc net.Conn) error {
	if _, err := nc.Write(appendGetValues(nil)); err != nil {
		return fmt.Errorf("fcgi: probe: %w", err)
	}
	in := newReader(nc)
	h, err := in.next()
	if err != nil {
		return fmt.Errorf("fcgi: probe: %w", unexpected(err))
	}
	if h.id != 0 || h.kind != kindGetValuesResult && h.kind != kindUnknownType {
		return fmt.Errorf("fcgi: probe: %w: record type %d for request %d", ErrProtocol, h.kind, h.id)
	}
	if err := in.skip(); err != nil {
		return fmt.Errorf("fcgi: probe: %w", err)
	}
	return nil
}

func appendGetValues(dst []byte) []byte {
	start := len(dst)
	dst = appendHeader(dst, kindGetValues, 0, 0, 0)
	for _, name := range []string{maxConns, maxReqs, mpxsConns} {
		dst = appendPair(dst, Param{Name: name})
	}
	putHeader(dst[start:], kindGetValues, 0, len(dst)-start-headerSize, 0)
	return dst
}
