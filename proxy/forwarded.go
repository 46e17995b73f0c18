package proxy

import (
	"errors"
	"net/http"
	"net/netip"
	"strings"
)

var errNotTrusted = errors.New("the PROXY protocol is for trusted_proxies")

// speaksForOthers reports whether what a peer says of its clients is believed.
func (s *Server) speaksForOthers(peer netip.AddrPort) bool {
	return s.trust != nil && !s.trust.IsEmpty() && s.trust.Covers(peer.Addr())
}

// believe decides who the client of a request is: whoever has connected, or as a trusted proxy says.
func (s *Server) believe(x *exchange, header http.Header) {
	x.peer, x.https = x.remote, x.secure
	if x.believed = s.speaksForOthers(x.peer); !x.believed {
		return
	}
	clients, proto := header["X-Forwarded-For"], lastElement(header["X-Forwarded-Proto"])
	if len(clients) == 0 && proto == "" {
		clients, proto = parseForwarded(header["Forwarded"])
	}
	if client := s.farthest(clients); client.IsValid() {
		x.remote = netip.AddrPortFrom(client, 0)
	}
	switch strings.ToLower(proto) {
	case "https":
		x.https = true
	case "http":
		x.https = false
	}
}

// farthest is the last address of a list that is no trusted proxy's: those before it are what that one says of itself. If all are
// trusted, it is the first.
func (s *Server) farthest(lists []string) (client netip.Addr) {
	list := strings.Split(strings.Join(lists, ","), ",")
	for i := len(list) - 1; i >= 0; i-- {
		addr, ok := parseNode(list[i])
		if !ok {
			break
		}
		if client = addr; !s.trust.Covers(addr) {
			break
		}
	}
	return client
}

// parseNode reads an address, which may have a port and then brackets.
func parseNode(s string) (netip.Addr, bool) {
	s = strings.Trim(s, " \t\"")
	if withPort, err := netip.ParseAddrPort(s); err == nil {
		return withPort.Addr().Unmap().WithZone(""), true
	}
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	return addr.Unmap().WithZone(""), err == nil
}

// lastElement is what the nearest proxy has said.
func lastElement(lists []string) string {
	if len(lists) == 0 {
		return ""
	}
	last := lists[len(lists)-1]
	return trimSpace(last[strings.LastIndexByte(last, ',')+1:])
}

// parseForwarded returns the addresses and the last protocol of a Forwarded field (RFC 7239 §4). What is quoted there are addresses with
// colons, in which neither "," nor ";" can stand.
func parseForwarded(lists []string) (clients []string, proto string) {
	for element := range strings.SplitSeq(strings.Join(lists, ","), ",") {
		client := "unknown"
		proto = ""
		for pair := range strings.SplitSeq(element, ";") {
			name, value, _ := strings.Cut(trimSpace(pair), "=")
			switch strings.ToLower(name) {
			case "for":
				client = value
			case "proto":
				proto = strings.Trim(value, `"`)
			}
		}
		clients = append(clients, client)
	}
	return clients, proto
}

// tellForwarded calls put with what a server can't know itself. What the peer says of it stays if it is a trusted proxy, or came through a
// unix socket, as a web server in front does.
func (c *call) tellForwarded(put func(name, value string)) {
	x := c.x
	said := func(name string) string {
		if !x.believed && x.peer.IsValid() {
			return ""
		}
		return strings.Join(c.r.Header[name], ", ")
	}
	scheme := x.scheme()
	clients := said("X-Forwarded-For")
	if x.peer.IsValid() {
		clients = joinList(clients, x.peer.Addr().Unmap().String())
	}
	if clients != "" {
		put("X-Forwarded-For", clients)
	}
	if said := said("Forwarded"); said != "" {
		put("Forwarded", joinList(said, forwardedElement(x, scheme)))
	}
	for _, fact := range [...]struct{ name, value string }{{"X-Forwarded-Host", c.r.Host}, {"X-Forwarded-Proto", scheme}} {
		if said := said(fact.name); said != "" {
			fact.value = said
		}
		if fact.value != "" {
			put(fact.name, fact.value)
		}
	}
	if cut := x.route.Cut(); cut != "" {
		put("X-Forwarded-Prefix", said("X-Forwarded-Prefix")+escapePath(cut))
	}
}

func joinList(list, element string) string {
	if list == "" || element == "" {
		return list + element
	}
	return list + ", " + element
}

// forwardedElement is our own element of a Forwarded field; empty: nothing is known of the peer.
func forwardedElement(x *exchange, scheme string) string {
	if !x.peer.IsValid() {
		return ""
	}
	node := x.peer.Addr().Unmap().WithZone("").String()
	if x.peer.Addr().Unmap().Is6() {
		node = `"[` + node + `]"`
	}
	return "for=" + node + ";proto=" + scheme
}
