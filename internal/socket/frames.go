package socket

import (
	"bytes"
	"encoding/json"
)

// pingAction is the heartbeat of livetemplate's browser client, and pong what it
// waits for.
const pingAction = "__ping__"

var pong = []byte(`{"pong":true}`)

// incoming is what became of a frame from the wire.
type incoming struct {
	ping   bool    // the client's heartbeat: nothing else is set
	action *action // what it asks for, nil if it is not passed on
	frame  []byte  // what to pass on: {"action":…,"data":{…}[,"submitter":…]}
	reject string  // why it is not passed on, "" if it is or is a ping
}

// action is one that pages have, with the texts that are made of its name.
type action struct {
	head    []byte // how its frames begin: {"action":"…","data":
	limited []byte // the answer when it was one too many
}

// filter knows the actions that are passed on, by their literal name.
type filter map[string]*action

func newFilter(names []string) filter {
	f := make(filter, len(names))
	for _, name := range names {
		quoted, _ := json.Marshal(name) // a string always has a JSON form
		f[name] = &action{
			head: []byte(`{"action":` + string(quoted) + `,"data":`),
			// With a tree and the action, the client releases the form that waits
			// for this answer; without a tree, it would fail before that.
			limited: []byte(`{"tree":{},"meta":{"success":false,"errors":{"_rate_limit":` +
				`"Too many requests. Please slow down."},"action":` + string(quoted) + `}}`),
		}
	}
	return f
}

// read judges a text frame, which must be valid UTF-8. The result shares no
// memory with frame.
//
// What is passed on is written anew from the fields known here. So no two
// readers of a frame can differ about it: livetemplate's own takes any spelling
// of a key, the last of several, and more keys than these. The values in data
// stay as they were typed, byte by byte.
func (f filter) read(frame []byte) incoming {
	// A map, since a struct would take "ACTION" for "action".
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(frame, &fields); err != nil {
		return incoming{reject: rejectMalformed}
	}
	rawAction, data, submitter := fields["action"], fields["data"], fields["submitter"]
	var name string
	if !starts(rawAction, '"') || json.Unmarshal(rawAction, &name) != nil {
		return incoming{reject: rejectMalformed}
	}
	if absent(data) {
		data = json.RawMessage(`{}`)
	}
	if !starts(data, '{') || !absent(submitter) && !starts(submitter, '"') {
		return incoming{reject: rejectMalformed}
	}
	if name == pingAction {
		return incoming{ping: true}
	}
	a := f[name]
	if a == nil {
		return incoming{reject: rejectAction}
	}
	const middle = `,"submitter":`
	out := make([]byte, 0, len(a.head)+len(data)+len(middle)+len(submitter)+1)
	out = append(append(out, a.head...), data...)
	if !absent(submitter) {
		out = append(append(out, middle...), submitter...)
	}
	return incoming{action: a, frame: append(out, '}')}
}

// starts reports whether a JSON value is of the kind that begins with c.
func starts(value json.RawMessage, c byte) bool { return len(value) > 0 && value[0] == c }

// absent reports whether a JSON value is not there or null.
func absent(value json.RawMessage) bool { return len(value) == 0 || value[0] == 'n' }

// How livetemplate v0.25.0 writes frames: a struct of tree and meta, in this
// order, and meta as success, errors, action, capabilities.
var (
	pushTail  = []byte(`,"meta":{"success":true,"errors":null}}`)
	nullHead  = []byte(`{"tree":null`)
	emptyHead = []byte(`{"tree":{}`)
	emptyTree = []byte(`{"tree":{}}`)
)

// cure returns the frame to send in place of one from livetemplate, and false if
// nothing is to be sent. Only frames that change are copied; the others are
// returned as they are.
//
//   - A push, known by a meta that answers no action, loses the meta: the client
//     takes any meta for the answer to the form that it just sent, and clears it.
//     The tail can only be the frame's own meta, since inside a string its quotes
//     would be escaped and deeper in the tree a brace would follow.
//   - A push of nothing is not sent.
//   - A tree of null becomes an empty one: null throws inside the client, before
//     the form that waits is released.
func cure(frame []byte) ([]byte, bool) {
	isPush := bytes.HasSuffix(frame, pushTail)
	isNull := bytes.HasPrefix(frame, nullHead)
	if !isPush && !isNull {
		return frame, !bytes.Equal(frame, emptyTree)
	}
	body, end := frame, ""
	if isPush {
		body, end = body[:len(body)-len(pushTail)], "}"
	}
	out := make([]byte, 0, len(body)+len(end))
	if isNull {
		out, body = append(out, emptyHead...), body[len(nullHead):]
	}
	out = append(append(out, body...), end...)
	return out, !bytes.Equal(out, emptyTree)
}
