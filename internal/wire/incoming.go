package wire

import "encoding/json"

// The heartbeat of livetemplate's browser client, and the frame that it waits for.
const (
	pingAction = "__ping__"
	Pong       = `{"pong":true}`
)

// Why a frame is not passed on.
const (
	RejectMalformed = "malformed" // not one JSON object of the known shape
	RejectAction    = "action"    // well-formed, but the action is not allowed
)

// Incoming is what became of a frame from a browser.
type Incoming struct {
	Ping   bool    // the client's heartbeat: nothing else is set
	Action *Action // what it asks for, nil if it is not passed on
	Frame  []byte  // what to pass on: {"action":…,"data":{…}[,"submitter":…]}
	Reject string  // why it is not passed on, "" if it is or is a ping
}

// Action is one that pages have, with the texts that are made of its name.
type Action struct {
	// Limited is the answer when it was one too many.
	Limited []byte

	head []byte // how its frames begin: {"action":"…","data":
}

// Filter knows the actions that are passed on, by their literal name.
type Filter map[string]*Action

// NewFilter returns the filter that passes on the actions of these names.
func NewFilter(names []string) Filter {
	f := make(Filter, len(names))
	for _, name := range names {
		quoted, _ := json.Marshal(name) // a string always has a JSON form
		f[name] = &Action{
			head: []byte(`{"action":` + string(quoted) + `,"data":`),
			// With a tree and the action, the client releases the form that waits
			// for this answer; without a tree, it would fail before that.
			Limited: []byte(`{"tree":{},"meta":{"success":false,"errors":{"_rate_limit":` +
				`"Too many requests. Please slow down."},"action":` + string(quoted) + `}}`),
		}
	}
	return f
}

// Read judges a text frame, which must be valid UTF-8. The result shares no
// memory with frame.
//
// What is passed on is written anew from the fields known here. So no two
// readers of a frame can differ about it: livetemplate's own takes any spelling
// of a key, the last of several, and more keys than these. The values in data
// stay as they were typed, byte by byte.
func (f Filter) Read(frame []byte) Incoming {
	// A map, since a struct would take "ACTION" for "action".
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(frame, &fields); err != nil {
		return Incoming{Reject: RejectMalformed}
	}
	rawAction, data, submitter := fields["action"], fields["data"], fields["submitter"]
	var name string
	if !starts(rawAction, '"') || json.Unmarshal(rawAction, &name) != nil {
		return Incoming{Reject: RejectMalformed}
	}
	if absent(data) {
		data = json.RawMessage(`{}`)
	}
	if !starts(data, '{') || !absent(submitter) && !starts(submitter, '"') {
		return Incoming{Reject: RejectMalformed}
	}
	if name == pingAction {
		return Incoming{Ping: true}
	}
	a := f[name]
	if a == nil {
		return Incoming{Reject: RejectAction}
	}
	const middle = `,"submitter":`
	out := make([]byte, 0, len(a.head)+len(data)+len(middle)+len(submitter)+1)
	out = append(append(out, a.head...), data...)
	if !absent(submitter) {
		out = append(append(out, middle...), submitter...)
	}
	return Incoming{Action: a, Frame: append(out, '}')}
}

// starts reports whether a JSON value is of the kind that begins with c.
func starts(value json.RawMessage, c byte) bool { return len(value) > 0 && value[0] == c }

// absent reports whether a JSON value is not there or null.
func absent(value json.RawMessage) bool { return len(value) == 0 || value[0] == 'n' }
