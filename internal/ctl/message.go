// Package ctl carries every message between the supervisor and the front, with the descriptors that travel beside them.
//
// The two are not equal: the front may be taken over by an attacker, so the supervisor decodes what it sends strictly and
// acts only on what its own copy of the configuration allows. A message names a pool, a generation, a slot and a pid, never
// a command or a user.
package ctl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Kind is what a message says.
type Kind string

// From the supervisor to the front. At start: one Listener each, one Parent and one Child for each that lives, Files if some have
// changed, then Setup.
const (
	Listener Kind = "listener" // Address; file: the listening socket
	Setup    Kind = "setup"    // file: the setup as a blob (see [NewBlob]); Generation
	Child    Kind = "child"    // Pool, Slot, PID, Generation, Socket, Seconds (age); file: the read end of its standard error
	Parent   Kind = "parent"   // Pool, PID: what forks the children of a pool; file: the read end of its and their output
	Failed   Kind = "failed"   // Pool, Slot, Generation, Text: a child could not be started
	Exited   Kind = "exited"   // Pool, Slot, PID, Generation, Status (a wait status), OOM
	Files    Kind = "files"    // file: a blob of what has changed of the files whose bytes are in the setup
	Status   Kind = "status"   // file: an admin connection that waits for the status as JSON
	Drain    Kind = "drain"    // stop accepting, finish what runs, then exit with 0
	Reopen   Kind = "reopen"   // reopen the log files
	Ping     Kind = "ping"     // answer with Pong
)

// From the front to the supervisor.
const (
	Ready  Kind = "ready"  // the front serves
	Pong   Kind = "pong"   // the answer to a Ping: the front is alive
	Start  Kind = "start"  // Pool, Slot, Generation: start a child in this place
	Retire Kind = "retire" // Pool, Slot, PID, Generation: SIGTERM now, the stop ladder after it
	Kill   Kind = "kill"   // Pool, Slot, PID, Generation: SIGTERM to the process group now, SIGKILL after the pool's kill_after
)

// Message is one message. Which fields count depends on the kind; the others are zero.
type Message struct {
	Kind       Kind    `json:"kind"`
	Address    string  `json:"address,omitempty"`
	Pool       string  `json:"pool,omitempty"`
	Slot       int     `json:"slot,omitempty"`
	PID        int     `json:"pid,omitempty"`
	Generation int     `json:"generation,omitempty"`
	Socket     string  `json:"socket,omitempty"` // path of the child's private listening socket
	Status     int     `json:"status,omitempty"` // as wait4 gives it
	OOM        bool    `json:"oom,omitempty"`    // the kernel ended the child for want of memory
	Seconds    float64 `json:"seconds,omitempty"`
	Text       string  `json:"text,omitempty"`
}

// What is told as the Status of a child whose end somebody else has seen: wait4 gives these only of processes that live.
const (
	Unseen   = 0x007f // nothing is known of it
	Orphaned = 0x017f // the child had to end because its parent did, which was told of another one already
)

// What one message may hold.
const (
	MaxMessageBytes = 64 << 10
	MaxTextBytes    = 4096    // Text; a JSON escape can make six bytes of one
	MaxNameBytes    = 255     // Pool and Address
	MaxSocketBytes  = 107     // a path that fits sun_path with its final zero
	MaxSlot         = 1 << 20 // more than any server_limit
	maxPID          = 1 << 22 // PID_MAX_LIMIT of Linux
	maxGeneration   = 1 << 30
	maxSeconds      = 1e10
)

// OwnSocket is the path at which an HTTP application may listen by itself, given that of its private listening socket. Which of
// the two it uses is its choice.
func OwnSocket(socket string) string {
	return strings.TrimSuffix(socket, ".sock") + ".d/s"
}

// side is one end of the socketpair.
type side string

const (
	supervisor side = "supervisor"
	front      side = "front"
)

// field is a set of fields of a Message.
type field uint16

const (
	address field = 1 << iota
	pool
	slot
	pid
	generation
	socket
	status
	seconds
	text
	oom

	place   = pool | slot | generation
	process = place | pid
)

// rule says who sends a kind, which fields it uses and how many descriptors travel with it.
type rule struct {
	kind   Kind
	from   side
	fields field
	files  int
}

// rules is the list of all kinds. It never changes.
var rules = [...]rule{
	{Listener, supervisor, address, 1},
	{Setup, supervisor, generation, 1},
	{Child, supervisor, process | socket | seconds, 1},
	{Parent, supervisor, pool | pid, 1},
	{Failed, supervisor, place | text, 0},
	{Exited, supervisor, process | status | oom, 0},
	{Files, supervisor, 0, 1},
	{Status, supervisor, 0, 1},
	{Drain, supervisor, 0, 0},
	{Reopen, supervisor, 0, 0},
	{Ping, supervisor, 0, 0},
	{Ready, front, 0, 0},
	{Pong, front, 0, 0},
	{Start, front, place, 0},
	{Retire, front, process, 0},
	{Kill, front, process, 0},
}

// Kinds lists every kind, so that a test can walk them.
func Kinds() []Kind {
	kinds := make([]Kind, len(rules))
	for i, r := range rules {
		kinds[i] = r.kind
	}
	return kinds
}

func ruleOf(k Kind) (rule, bool) {
	for _, r := range rules {
		if r.kind == k {
			return r, true
		}
	}
	return rule{}, false
}

// Validate reports whether m is of a known kind, its fields are in range, and no field is set that its kind does not use.
func (m Message) Validate() error {
	r, ok := ruleOf(m.Kind)
	if !ok {
		return fmt.Errorf("ctl: unknown kind %.20q", m.Kind)
	}
	for _, c := range m.checks() {
		switch used := r.fields&c.field != 0; {
		case used && !c.valid:
			return fmt.Errorf("ctl: %s: %s is missing or out of range", m.Kind, c.name)
		case !used && c.set:
			return fmt.Errorf("ctl: %s: has no %s", m.Kind, c.name)
		}
	}
	return nil
}

// check is what Validate knows of one field.
type check struct {
	field field
	name  string
	set   bool
	valid bool
}

func (m Message) checks() [10]check {
	return [...]check{
		{address, "address", m.Address != "", m.Address != "" && len(m.Address) <= MaxNameBytes},
		{pool, "pool", m.Pool != "", m.Pool != "" && len(m.Pool) <= MaxNameBytes},
		{slot, "slot", m.Slot != 0, 0 <= m.Slot && m.Slot <= MaxSlot},
		{pid, "pid", m.PID != 0, 1 < m.PID && m.PID <= maxPID}, // 0, -1 and 1 mean much more than one process to kill(2)
		{generation, "generation", m.Generation != 0, 0 < m.Generation && m.Generation <= maxGeneration},
		{socket, "socket", m.Socket != "", m.Socket != "" && len(m.Socket) <= MaxSocketBytes},
		{status, "status", m.Status != 0, 0 <= m.Status && m.Status <= 0xffff},
		{seconds, "seconds", m.Seconds != 0, 0 <= m.Seconds && m.Seconds <= maxSeconds},
		{text, "text", m.Text != "", len(m.Text) <= MaxTextBytes},
		{oom, "oom", m.OOM, true},
	}
}

// encode gives the bytes of m, which the given side is about to send with so many files.
func encode(m Message, from side, files int) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	r, _ := ruleOf(m.Kind)
	if r.from != from {
		return nil, fmt.Errorf("ctl: %s: not a message of the %s", m.Kind, from)
	}
	if r.files != files {
		return nil, fmt.Errorf("ctl: %s: %d files, want %d", m.Kind, files, r.files)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("ctl: %s: %w", m.Kind, err)
	}
	return b, nil
}

// decode is the reverse of encode for bytes that nobody vouches for. It returns how many files belong to the message.
func decode(b []byte, from side) (Message, int, error) {
	var m Message
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return Message{}, 0, fmt.Errorf("ctl: malformed message: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Message{}, 0, errors.New("ctl: malformed message: more than one value")
	}
	if err := m.Validate(); err != nil {
		return Message{}, 0, err
	}
	r, _ := ruleOf(m.Kind)
	if r.from != from {
		return Message{}, 0, fmt.Errorf("ctl: %s: not a message of the %s", m.Kind, from)
	}
	return m, r.files, nil
}
