package http1

import "bytes"

// Framing is what the head of a message says of where the message ends, and of its connection.
type Framing struct {
	ContentLength int64 // -1: no such field
	Minor         int   // of the version: 0 or 1; HTTP/1.2 and later count as 1
	Chunked       bool
	KeepAlive     bool // the connection may take another message after this one
	NamesFields   bool // Connection says more than close and keep-alive: the names of fields that are for this connection alone

	connClose        bool
	connKeepAlive    bool
	connNamesUpgrade bool
}

// settle draws the conclusion about the connection (RFC 9112 §9.3). Close beats keep-alive when both are said.
func (m *Framing) settle() {
	m.KeepAlive = !m.connClose && (m.Minor > 0 || m.connKeepAlive)
}

func (m *Framing) noteConnection(value []byte) {
	for rest := value; len(rest) > 0; {
		var option []byte
		option, rest = cutElement(rest)
		switch {
		case equalFold(option, "close"):
			m.connClose = true
		case equalFold(option, "keep-alive"):
			m.connKeepAlive = true
		case equalFold(option, "upgrade"):
			m.connNamesUpgrade, m.NamesFields = true, true
		case len(option) > 0:
			m.NamesFields = true
		}
	}
}

// noteContentLength refuses what RFC 9112 §6.3 lets a reader repair: two fields, even equal ones, and a length beside chunks.
func (m *Framing) noteContentLength(value []byte) error {
	if m.ContentLength >= 0 {
		return bad("more than one Content-Length")
	}
	if m.Chunked {
		return bad("Content-Length with Transfer-Encoding")
	}
	n, ok := ParseContentLength(value)
	if !ok {
		return bad("bad Content-Length")
	}
	m.ContentLength = n
	return nil
}

// noteTransferEncoding takes "chunked", once and last (RFC 9112 §6.1).
func (m *Framing) noteTransferEncoding(value []byte) error {
	if m.Minor == 0 {
		return bad("Transfer-Encoding in HTTP/1.0")
	}
	if m.ContentLength >= 0 {
		return bad("Content-Length with Transfer-Encoding")
	}
	for rest, more := value, true; more; {
		var element []byte
		element, rest, more = bytes.Cut(rest, []byte{','})
		if err := m.noteCoding(element); err != nil {
			return err
		}
	}
	return nil
}

func (m *Framing) noteCoding(element []byte) error {
	name, _, hasParams := bytes.Cut(element, []byte{';'})
	name = trimSpace(name)
	switch {
	case m.Chunked:
		return bad("chunked is not the last transfer coding")
	case !isToken(name):
		return bad("bad Transfer-Encoding")
	case !equalFold(name, "chunked"):
		return refuse(501, "transfer coding unknown")
	case hasParams:
		return bad("chunked with parameters")
	}
	m.Chunked = true
	return nil
}
