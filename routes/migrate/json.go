package migrate

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
)

// jsonValue is a value of a JSON text with its place.
type jsonValue struct {
	value   any // string, json.Number, bool or nil; of an object or an array, the opening json.Delim
	keys    []string
	members map[string]*jsonValue
	items   []*jsonValue
	from    Origin // the line, and the JSON pointer with the value behind it
}

// jsonReader reads one JSON text.
type jsonReader struct {
	*json.Decoder
	source
	read, line int // how far lines are counted
}

// maxJSONDepth bounds the recursion; Unit's own configurations are a dozen deep.
const maxJSONDepth = 64

func readJSON(s source) (*jsonValue, error) {
	r := &jsonReader{Decoder: json.NewDecoder(strings.NewReader(s.text)), source: s, line: 1}
	r.UseNumber()
	v, err := r.next("", 0)
	if err != nil {
		return nil, err
	}
	if _, err := r.Token(); err != io.EOF {
		return nil, r.fault("something follows the configuration")
	}
	return v, nil
}

// next reads one value; the pointer is where it stands (RFC 6901).
func (r *jsonReader) next(pointer string, depth int) (*jsonValue, error) {
	token, err := r.Token()
	if err == io.EOF {
		return nil, r.fault("the text ends too early")
	} else if err != nil {
		return nil, r.fault(err.Error())
	}
	if depth > maxJSONDepth {
		return nil, r.fault(fmt.Sprintf("it is nested more than %d deep", maxJSONDepth))
	}
	v := &jsonValue{value: token, from: Origin{r.name, r.here(), pointer}}
	switch token {
	case json.Delim('{'):
		err = r.object(v, pointer, depth)
	case json.Delim('['):
		err = r.array(v, pointer, depth)
	default:
		v.from.Text += " = " + jsonText(token)
	}
	return v, err
}

func jsonText(token any) string {
	if s, ok := token.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(token)
}

var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")

// object reads members up to the closing brace. Of members with one name the last counts.
func (r *jsonReader) object(v *jsonValue, pointer string, depth int) error {
	v.members = map[string]*jsonValue{}
	for r.More() {
		token, err := r.Token()
		key, ok := token.(string)
		if err != nil || !ok {
			return r.fault("the name of a member is missing")
		}
		member, err := r.next(pointer+"/"+pointerEscapes.Replace(key), depth+1)
		if err != nil {
			return err
		}
		if v.members[key] == nil {
			v.keys = append(v.keys, key)
		}
		v.members[key] = member
	}
	return r.end()
}

func (r *jsonReader) array(v *jsonValue, pointer string, depth int) error {
	for r.More() {
		item, err := r.next(pointer+"/"+strconv.Itoa(len(v.items)), depth+1)
		if err != nil {
			return err
		}
		v.items = append(v.items, item)
	}
	return r.end()
}

// end reads the closing bracket.
func (r *jsonReader) end() error {
	if _, err := r.Token(); err == io.EOF {
		return r.fault("the text ends too early")
	} else if err != nil {
		return r.fault(err.Error())
	}
	return nil
}

// here is the line that was read last.
func (r *jsonReader) here() int {
	offset := int(r.InputOffset())
	r.line += strings.Count(r.text[r.read:offset], "\n")
	r.read = offset
	return r.line
}

func (r *jsonReader) fault(reason string) error {
	return errorAt(Origin{File: r.name, Line: r.here()}, "no JSON: %s", reason)
}

// get is a member of an object; nil if there is none, or v is no object.
func (v *jsonValue) get(key string) *jsonValue {
	if v == nil {
		return nil
	}
	return v.members[key]
}

// each goes over the members of an object in file order.
func (v *jsonValue) each() iter.Seq2[string, *jsonValue] {
	return func(yield func(string, *jsonValue) bool) {
		if v == nil {
			return
		}
		for _, key := range v.keys {
			if !yield(key, v.members[key]) {
				return
			}
		}
	}
}

// values are the members of an object in file order.
func (v *jsonValue) values() (list []*jsonValue) {
	for _, member := range v.each() {
		list = append(list, member)
	}
	return list
}

// text is a string, or "".
func (v *jsonValue) text() string {
	if v == nil {
		return ""
	}
	s, _ := v.value.(string)
	return s
}

func (v *jsonValue) isTrue() bool { return v != nil && v.value == true }

func (v *jsonValue) isObject() bool { return v != nil && v.members != nil }

// number is a whole number that is not negative, if v is one.
func (v *jsonValue) number() (int, bool) {
	if v == nil {
		return 0, false
	}
	n, ok := v.value.(json.Number)
	if !ok {
		return 0, false
	}
	i, err := strconv.ParseUint(n.String(), 10, 40)
	return int(i), err == nil
}

// texts are the strings of a list, or of a string as a list of one. The report is false if something else is in it.
func (v *jsonValue) texts() (list []string, ok bool) {
	if v == nil {
		return nil, true
	}
	if s, ok := v.value.(string); ok {
		return []string{s}, true
	}
	for _, item := range v.items {
		s, ok := item.value.(string)
		if !ok {
			return nil, false
		}
		list = append(list, s)
	}
	return list, v.items != nil
}
