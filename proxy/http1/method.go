package http1

// Allow is the value of the Allow field that an answer of status 405 needs (RFC 9110 §15.5.6).
const Allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"

// maxMethodBytes is the length of the longest known method. A longer one is unknown before its end is seen.
const maxMethodBytes = len("BASELINE-CONTROL")

// checkMethod fails for a method that the gateway does not serve. Methods are case-sensitive (RFC 9110 §9.1).
func checkMethod(method []byte) error {
	switch string(method) {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		return nil
	case "PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", // RFC 4918
		"VERSION-CONTROL", "REPORT", "CHECKOUT", "CHECKIN", "UNCHECKOUT", "MKWORKSPACE", // RFC 3253
		"UPDATE", "LABEL", "MERGE", "BASELINE-CONTROL", "MKACTIVITY", // RFC 3253
		"ACL", "SEARCH", "ORDERPATCH", "BIND", "UNBIND", "REBIND", "MKCALENDAR": // RFC 3744, 5323, 3648, 5842, 4791
		return nil
	case "TRACE", "CONNECT":
		// TRACE shows fields that scripts must not see; CONNECT would make an open proxy.
		return refuse(405, "method not allowed")
	}
	return refuse(501, "method unknown")
}
