package wire

import "bytes"

// How livetemplate v0.25.0 writes frames: a struct of tree and meta, in this
// order, and meta as success, errors, action, capabilities.
var (
	pushTail  = []byte(`,"meta":{"success":true,"errors":null}}`)
	nullHead  = []byte(`{"tree":null`)
	emptyHead = []byte(`{"tree":{}`)
	emptyTree = []byte(`{"tree":{}}`)
)

// Cure returns the frame to send in place of one from livetemplate, and false if
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
func Cure(frame []byte) ([]byte, bool) {
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
