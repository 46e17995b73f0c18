package http1

// MaxAnswerBytes bounds the head of a response, its final empty line included.
const MaxAnswerBytes = 64 << 10

// maxAnswerFields bounds the fields of a response: applications that debug themselves send one for each message.
const maxAnswerFields = 1000

// Answer is the head of a response, as a proxy gets it from a server. Every slice in it aliases the buffer that was parsed.
//
// The zero value must be Reset before its first use. It belongs to one goroutine at a time.
type Answer struct {
	Status int // three digits, not all of which HTTP has
	Fields []Field
	Framing

	pos int // the offset of the first line that was not complete
}

// Reset empties a and keeps the memory of Fields.
func (a *Answer) Reset() {
	*a = Answer{Fields: a.Fields[:0], Framing: Framing{ContentLength: -1}}
}

// Parse reads the head of a response from the start of buf and returns its length.
//
// n == 0 without an error means that buf holds only a part of a head, in which nothing is wrong so far: try again with the same
// buffer and more bytes in it. That answer is never given to MaxAnswerBytes or more. Before the next head comes [Answer.Reset].
//
// It is as strict as [Head.Parse]: of a response, too, a bare LF or a folded line is an attempt to split it, and two lengths are
// one that two readers understand differently (RFC 9112 §2.2, §5.2, §6.3).
func (a *Answer) Parse(buf []byte) (n int, err error) {
	whole := len(buf) >= MaxAnswerBytes
	buf = buf[:min(len(buf), MaxAnswerBytes)]
	n, err = a.parse(buf)
	if n == 0 && err == nil && whole {
		err = bad("head too large")
	}
	return n, err
}

func (a *Answer) parse(buf []byte) (n int, err error) {
	if a.pos == 0 {
		if a.pos, err = a.statusLine(buf); a.pos == 0 || err != nil {
			return 0, err
		}
	}
	for a.pos < len(buf) {
		if buf[a.pos] == '\r' {
			return a.end(buf)
		}
		if len(a.Fields) == maxAnswerFields {
			return 0, bad("too many fields")
		}
		f, n, err := fieldLine(buf[a.pos:], MaxAnswerBytes)
		if n == 0 || err != nil {
			return 0, err
		}
		if err := a.note(f); err != nil {
			return 0, err
		}
		a.Fields = append(a.Fields, f)
		a.pos += n
	}
	return 0, nil
}

// end reads the empty line behind the fields.
func (a *Answer) end(buf []byte) (n int, err error) {
	switch {
	case a.pos+1 == len(buf):
		return 0, nil
	case buf[a.pos+1] != '\n':
		return 0, bad("CR without LF")
	}
	a.settle()
	return a.pos + len("\r\n"), nil
}

// note keeps what a field says of the framing.
func (a *Answer) note(f Field) error {
	switch {
	case equalFold(f.Name, "content-length"):
		return a.noteContentLength(f.Value)
	case equalFold(f.Name, "transfer-encoding"):
		return a.noteTransferEncoding(f.Value)
	case equalFold(f.Name, "connection"):
		a.noteConnection(f.Value)
	}
	return nil
}

// statusLine reads the first line (RFC 9112 §4). Many servers leave out the space behind the status when no reason follows. n == 0:
// it is not complete.
func (a *Answer) statusLine(buf []byte) (n int, err error) {
	const form = "HTTP/1.d ddd"
	for i := 0; i < min(len(buf), len(form)); i++ {
		if c, want := buf[i], form[i]; want == 'd' && (c < '0' || c > '9') || want != 'd' && c != want {
			return 0, bad("first line is not HTTP/1.d and a status")
		}
	}
	if len(buf) <= len(form) {
		return 0, nil
	}
	if c := buf[len(form)]; c != ' ' && c != '\r' {
		return 0, bad("status has not three digits")
	}
	end := valueEnd(buf, len(form))
	switch {
	case end+1 >= len(buf) && (end == len(buf) || buf[end] == '\r'):
		return 0, nil
	case buf[end] != '\r' || buf[end+1] != '\n':
		return 0, bad("control character or bare LF in the status line")
	}
	a.Minor = min(int(buf[len("HTTP/1.")]-'0'), 1)
	a.Status = int(buf[9]-'0')*100 + int(buf[10]-'0')*10 + int(buf[11]-'0')
	return end + len("\r\n"), nil
}

// ParseTrailer reads the lines behind the last chunk, as [ChunkReader] keeps them.
func ParseTrailer(lines []byte) (fields []Field) {
	for len(lines) > 0 {
		f, n, err := fieldLine(lines, MaxTrailerBytes)
		if n == 0 || err != nil {
			return fields // it has been checked
		}
		fields, lines = append(fields, f), lines[n:]
	}
	return fields
}

// ValidTarget reports whether a request line can hold s as its target.
func ValidTarget(s string) bool { return s != "" && all(s, classTarget) }
