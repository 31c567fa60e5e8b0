package client

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Kind is the kind of an event.
type Kind string

// The kinds of events that [Client.Watch] yields.
const (
	KindSnapshot Kind = "snapshot" // the whole room; of a larger one the numbers and some members
	KindDiff     Kind = "diff"     // the users who left, changed and joined
	KindCount    Kind = "count"    // only the numbers
	KindMode     Kind = "mode"     // the room has become too large for diffs (Mode count), or small enough again (Mode diff)
	KindStale    Kind = "stale"    // Redis is away: the last known state is from the time AsOf
)

// Event is an event of a room's stream. Which fields it has depends on its kind.
type Event struct {
	Kind Kind   `json:"-"`
	Room string `json:"room"`

	// Of all kinds except mode. At version 0 nothing is known yet.
	Version int64 `json:"version"`

	// Of a snapshot, diff or count: the numbers of the room.
	Users       int `json:"users"`
	Connections int `json:"connections"`

	// Of a snapshot, count or stale event.
	Stale bool      `json:"stale"`
	AsOf  time.Time `json:"as_of"`

	// Of a snapshot: the members in order of joining, and whether these are all.
	Complete bool     `json:"complete"`
	Members  []Member `json:"members"`

	// Of a diff. It is to be applied in this order: leaves, updates, joins.
	Leaves  []Leave  `json:"leaves"`
	Updates []Member `json:"updates"`
	Joins   []Member `json:"joins"`

	// Of a mode event.
	Mode string `json:"mode"`
}

// maxEvent is the longest line of a stream that is read, in bytes: much more than a
// snapshot of 256 users with 1 KiB of metadata, each character of it escaped.
const maxEvent = 16 << 20

// reader reads server-sent events (WHATWG HTML, 9.2.6).
type reader struct {
	lines  *bufio.Scanner
	onLine func() // is called with each line, comments included

	id    string        // of the last event that had one
	retry time.Duration // after which the client is to come back; 0: it was not said
}

func newReader(r io.Reader, onLine func()) *reader {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEvent)
	return &reader{lines: lines, onLine: onLine}
}

// next returns the next event. The error is not nil, and [io.EOF] if the stream ended
// without one.
func (r *reader) next() (kind string, data []byte, err error) {
	for r.lines.Scan() {
		r.onLine()
		line := r.lines.Bytes()
		if len(line) == 0 {
			if data == nil {
				kind = ""
				continue
			}
			return kind, data, nil
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			kind = string(value)
		case "data":
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, value...)
		case "id":
			r.id = string(value)
		case "retry":
			if ms, err := strconv.Atoi(string(value)); err == nil && ms >= 0 {
				r.retry = time.Duration(ms) * time.Millisecond
			}
		}
	}
	if err := r.lines.Err(); err != nil {
		return "", nil, fmt.Errorf("presence client: read the stream: %w", err)
	}
	return "", nil, io.EOF
}

// parse reads the data of an event. It reports false for unknown kinds, which clients
// ignore.
func parse(kind string, data []byte) (e Event, known bool, err error) {
	switch e.Kind = Kind(kind); e.Kind {
	case KindSnapshot, KindDiff, KindCount, KindMode, KindStale:
	default:
		return e, false, nil
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, false, fmt.Errorf("presence client: read an event of kind %s: %w", strings.ToValidUTF8(kind, "?"), err)
	}
	return e, true, nil
}
