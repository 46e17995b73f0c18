package fcgi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strings"
)

// ErrHead means that the head of a CGI response is not what RFC 3875 §6 asks for.
var ErrHead = errors.New("malformed response head")

// maxHead bounds the head of a response, line ends included.
const maxHead = 256 << 10

// ParseHeader reads the head of a CGI response (RFC 3875 §6) up to and with its empty line; the body stays in r.
//
// status is the value of the Status field, which is not in header; 0 means that there was none. Then the response is a
// redirect if it has a Location field, local or to the client (§6.2.2, §6.2.3), and otherwise 200: the caller decides.
// Names in header are canonical, values in the order in which they came. Status 103 is that of a head with early hints (RFC 8297), after
// which another head comes. Another one below 200 is refused, as such a response would not be the final one, and so is one above
// 599, which HTTP does not have.
//
// A head that breaks the rules is an [ErrHead]; a failure of r is returned as it is.
func ParseHeader(r *bufio.Reader) (status int, header http.Header, err error) {
	header = make(http.Header, 8)
	single := make([]string, 8)
	budget := maxHead
	for n := 1; ; n++ {
		line, err := readLine(r, &budget)
		if err != nil {
			return 0, nil, err
		}
		if len(line) == 0 {
			break
		}
		name, value, err := parseField(string(line))
		if err != nil {
			return 0, nil, fmt.Errorf("%w: line %d: %w", ErrHead, n, err)
		}
		if name != "Status" {
			addField(header, &single, name, value)
			continue
		}
		if status != 0 {
			return 0, nil, fmt.Errorf("%w: line %d: a second Status", ErrHead, n)
		}
		if status, err = parseStatus(value); err != nil {
			return 0, nil, fmt.Errorf("%w: line %d: %w", ErrHead, n, err)
		}
	}
	if status == 0 && len(header) == 0 {
		return 0, nil, fmt.Errorf("%w: it has no field", ErrHead)
	}
	return status, header, nil
}

// addField adds a value. The first ones take their slices from single, one allocation for all of them.
func addField(header http.Header, single *[]string, name, value string) {
	if values, ok := header[name]; ok || len(*single) == 0 {
		header[name] = append(values, value)
		return
	}
	(*single)[0] = value
	header[name] = (*single)[:1:1]
	*single = (*single)[1:]
}

// readLine returns the next line without its LF or CRLF. It is valid until r is used again.
func readLine(r *bufio.Reader, budget *int) ([]byte, error) {
	var long []byte // the beginning of a line that is larger than r's buffer
	for {
		part, err := r.ReadSlice('\n')
		if *budget -= len(part); *budget < 0 {
			return nil, fmt.Errorf("%w: larger than %d bytes", ErrHead, maxHead)
		}
		switch {
		case err == nil && long == nil:
			return trimLineEnd(part), nil
		case err == nil:
			return trimLineEnd(append(long, part...)), nil
		case err == bufio.ErrBufferFull:
			long = append(long, part...)
		case err == io.EOF:
			return nil, fmt.Errorf("%w: it ends without an empty line", ErrHead)
		default:
			return nil, err
		}
	}
}

func trimLineEnd(line []byte) []byte {
	line = line[:len(line)-1]
	return bytes.TrimSuffix(line, []byte{'\r'})
}

func parseField(line string) (name, value string, err error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok {
		return "", "", fmt.Errorf("no colon in %.40q", line)
	}
	if !isToken(name) {
		return "", "", fmt.Errorf("field name %.40q is not a token", name)
	}
	value = strings.Trim(value, " \t")
	for i := range len(value) {
		if isControl(value[i]) {
			return "", "", fmt.Errorf("field %.40q has byte %#02x in its value", name, value[i])
		}
	}
	return textproto.CanonicalMIMEHeaderKey(name), value, nil
}

// isToken is RFC 9110 §5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// isControl is what a field value must not have (RFC 9110 §5.5); a CR would split the response.
func isControl(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }

// parseStatus reads "404" or "404 Not Found".
func parseStatus(value string) (int, error) {
	code, _, _ := strings.Cut(value, " ")
	if len(code) != 3 || strings.Trim(code, "0123456789") != "" || (code < "200" || code > "599") && code != "103" {
		return 0, fmt.Errorf("status %.40q", value)
	}
	return int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0'), nil
}
