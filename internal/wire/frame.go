package wire

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// FlashPrefix begins the key of a flash among the messages of livetemplate.
const FlashPrefix = "_flash:"

// Slots are the changing parts of a page: what stands in each numbered slot of its
// tree, or what changes there.
type Slots map[string]json.RawMessage

// Frame is a frame of livetemplate: slots, and whatever else it says.
type Frame struct {
	Tree Slots           `json:"tree"`
	Meta json.RawMessage `json:"meta,omitempty"`
}

// Encode returns the frame as it goes over the wire.
func (f Frame) Encode() []byte {
	text, _ := json.Marshal(f) // of valid JSON: it can't fail
	return text
}

// Splice puts slots into a frame from livetemplate.
func Splice(frame []byte, slots Slots) []byte {
	var f Frame
	if json.Unmarshal(frame, &f) != nil || f.Tree == nil {
		return frame
	}
	maps.Copy(f.Tree, slots)
	return f.Encode()
}

// Before returns what stands before a slot in the text of a page that is shown
// completely, at most some forty bytes of it; "" if that is not known.
func (s Slots) Before(at string) string {
	var statics []string
	n, err := strconv.Atoi(at)
	if err != nil || json.Unmarshal(s["s"], &statics) != nil || n < 0 || n >= len(statics) {
		return ""
	}
	text := strings.TrimSpace(statics[n])
	for len(text) > 40 {
		_, size := utf8.DecodeRuneInString(text)
		text = text[size:]
	}
	return text
}

// Row returns the only row of the only list of one row on a page that is shown
// completely; nil if there is no such.
func (s Slots) Row() Slots {
	for _, value := range s {
		var list struct {
			Range struct {
				Rows []Slots `json:"d"`
			} `json:"0"`
		}
		if json.Unmarshal(value, &list) == nil && len(list.Range.Rows) == 1 {
			return list.Range.Rows[0]
		}
	}
	return nil
}

// Mark is the difference between a marked row of a list and other rows.
type Mark struct {
	id    string // slot of a row that holds its id
	at    string // slot of the mark; it is "" in rows without
	value []byte // the mark
}

// NewMark finds out how a marked row differs from the row of the same id that is not
// marked. It reports whether a row can be marked by that.
func NewMark(plain, marked Slots, id string) (Mark, bool) {
	var m Mark
	for at, value := range plain {
		if string(value) == strconv.Quote(id) {
			m.id = at
		}
		if !bytes.Equal(value, marked[at]) {
			m.at, m.value = at, marked[at]
		}
	}
	return m, m.id != "" && m.at > m.id && string(plain[m.at]) == `""`
}

// Put returns a frame in which the row of an id, if it is there, is marked. Neither
// ids nor the marks can occur in names: a quote in a name is escaped.
func (m Mark) Put(frame []byte, id string) []byte {
	if id == "" {
		return frame
	}
	row := bytes.Index(frame, []byte(strconv.Quote(m.id)+":"+strconv.Quote(id)))
	if row < 0 { // a row that changes is sent whole, too, without its id
		row = bytes.Index(frame, []byte(`["u",`+strconv.Quote(id)+`,`))
	}
	if row < 0 {
		return frame
	}
	unmarked := []byte(strconv.Quote(m.at) + `:""`)
	at := bytes.Index(frame[row:], unmarked)
	if at < 0 {
		return frame
	}
	end := row + at + len(unmarked)
	return slices.Concat(frame[:end-len(`""`)], m.value, frame[end:])
}
