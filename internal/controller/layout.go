package controller

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
	"presence/internal/replica"
)

// slots are the changing parts of a page on the wire of livetemplate: what stands
// in each numbered slot of its tree, or what changes there.
type slots map[string]json.RawMessage

// layout knows which slots of the page of a room are shared by all who look at it,
// and which are the visitor's own. It finds out by rendering the template.
type layout struct {
	page   *livetemplate.Template
	shared map[string]bool

	count slot   // of the number of users
	row   slot   // of a row, that marks the visitor's own; elsewhere it is ""
	id    string // slot of a row that holds the user's id
}

// slot is a number and what stands there.
type slot struct {
	at    string
	value []byte
}

// flashPrefix begins the key of a flash among the messages of livetemplate.
const flashPrefix = "_flash:"

// sample is a number of users that nothing else on a page looks like.
const sample = 4_711_081_547

// errLayout is returned for a template that a page can't be divided by.
var errLayout = errors.New("the template of a room does not keep apart what is shared and what is the visitor's own")

// newLayout examines the template of a room.
func newLayout(page *livetemplate.Template) (*layout, error) {
	l := &layout{page: page, shared: map[string]bool{}}
	ann, ben := Row{ID: "id-of-ann", Name: "Ann"}, Row{ID: "id-of-ben", Name: "Ben"}
	base := PresenceState{Room: "lobby", Known: true, Users: 1, Connections: 1, Roster: []Row{ann}}
	change := func(change func(*PresenceState), flashes ...string) (slots, error) {
		next := base
		change(&next)
		messages := map[string]string{}
		for _, key := range flashes {
			messages[flashPrefix+key] = "x"
		}
		return l.changes(base, next, messages)
	}

	for _, vary := range []func(*PresenceState){
		func(s *PresenceState) { s.Known = false },
		func(s *PresenceState) { s.Stale = true },
		func(s *PresenceState) { s.Connections = 2 },
		func(s *PresenceState) { s.Roster = []Row{ann, ben} },
		func(s *PresenceState) { s.Roster = nil },
		func(s *PresenceState) { s.More = 1 },
		func(s *PresenceState) { s.Users = sample },
	} {
		changed, err := change(vary)
		if err != nil {
			return nil, err
		}
		for at, value := range changed {
			l.shared[at] = true
			if bytes.Contains(value, []byte(strconv.Itoa(sample))) && l.count.at == "" {
				l.count.at = at
			}
		}
	}
	own, err := change(func(s *PresenceState) { s.Joined, s.Username, s.UserID = true, "Ann", ann.ID }, flashNotice, flashName, flashTyped)
	if err != nil {
		return nil, err
	}
	for at := range own {
		if l.shared[at] {
			return nil, fmt.Errorf("%w: slot %s", errLayout, at)
		}
	}

	base.Users, base.Connections = sample, sample
	whole, err := l.whole(base)
	if err != nil {
		return nil, err
	}
	l.count.value = whole[l.count.at]
	if bytes.Count(l.count.value, []byte(strconv.Itoa(sample))) != 1 {
		return nil, fmt.Errorf("%w: it shows the number of users nowhere, or twice", errLayout)
	}
	base.Roster = []Row{{ID: ann.ID, Name: ann.Name, Own: true}}
	marked, err := l.whole(base)
	if err != nil {
		return nil, err
	}
	return l, l.learnRow(rowOf(whole), rowOf(marked), ann.ID)
}

// rowOf returns the only row of the roster on a page; nil if there is no such.
func rowOf(whole slots) slots {
	for _, value := range whole {
		var list struct {
			Range struct {
				Rows []slots `json:"d"`
			} `json:"0"`
		}
		if json.Unmarshal(value, &list) == nil && len(list.Range.Rows) == 1 {
			return list.Range.Rows[0]
		}
	}
	return nil
}

// learnRow finds out how the visitor's own row differs from one of the same user
// that is not.
func (l *layout) learnRow(other, own slots, id string) error {
	for at, value := range other {
		if string(value) == strconv.Quote(id) {
			l.id = at
		}
		if !bytes.Equal(value, own[at]) {
			l.row = slot{at, own[at]}
		}
	}
	if l.id == "" || l.row.at <= l.id || string(other[l.row.at]) != `""` {
		return fmt.Errorf("%w: a row of the roster is none that can be marked", errLayout)
	}
	return nil
}

// blank returns a page that has shown nothing yet.
func (l *layout) blank() (*livetemplate.Template, error) {
	page, err := l.page.Clone()
	if err != nil {
		return nil, fmt.Errorf("clone the page: %w", err)
	}
	return page, nil
}

// whole renders s and returns all its slots, complete.
func (l *layout) whole(s PresenceState) (slots, error) {
	page, err := l.blank()
	if err != nil {
		return nil, err
	}
	return render(page, s, nil)
}

// changes renders a page that shows one state and then another, and returns what
// has changed.
func (l *layout) changes(from, to PresenceState, messages map[string]string) (slots, error) {
	page, err := l.blank()
	if err != nil {
		return nil, err
	}
	if _, err := render(page, from, nil); err != nil {
		return nil, err
	}
	return render(page, to, messages)
}

// render renders s on a page of its own, and returns what is new on it.
func render(page *livetemplate.Template, s PresenceState, messages map[string]string) (slots, error) {
	var out bytes.Buffer
	if err := page.ExecuteUpdates(&out, s, messages); err != nil {
		return nil, fmt.Errorf("render a room: %w", err)
	}
	var changed slots
	if err := json.Unmarshal(out.Bytes(), &changed); err != nil {
		return nil, fmt.Errorf("render a room: %w", err)
	}
	return changed, nil
}

// room returns the shared slots of a page that shows view, complete, with nobody's
// own row marked.
func (l *layout) room(view replica.View) (slots, error) {
	whole, err := l.whole(PresenceState{}.shows(view))
	maps.DeleteFunc(whole, func(at string, _ json.RawMessage) bool { return !l.shared[at] })
	return whole, err
}

// countOf is the slot of the number of users, complete.
func (l *layout) countOf(users int) json.RawMessage {
	return bytes.Replace(l.count.value, []byte(strconv.Itoa(sample)), []byte(strconv.Itoa(users)), 1)
}

// mark returns a frame in which the row of the user id, if it is there, is marked
// as the visitor's own. Neither ids nor the marks can occur in names: a quote in a
// name is escaped.
func (l *layout) mark(frame []byte, id string) []byte {
	if id == "" {
		return frame
	}
	row := bytes.Index(frame, []byte(strconv.Quote(l.id)+":"+strconv.Quote(id)))
	if row < 0 {
		return frame
	}
	unmarked := []byte(strconv.Quote(l.row.at) + `:""`)
	at := bytes.Index(frame[row:], unmarked)
	if at < 0 {
		return frame
	}
	end := row + at + len(unmarked)
	return slices.Concat(frame[:end-len(`""`)], l.row.value, frame[end:])
}

// frame is a frame of livetemplate: slots, and whatever else it says.
type frame struct {
	Tree slots           `json:"tree"`
	Meta json.RawMessage `json:"meta,omitempty"`
}

// encode returns the frame as it goes over the wire.
func (f frame) encode() []byte {
	text, _ := json.Marshal(f) // of valid JSON: it can't fail
	return text
}

// splice puts slots into a frame from livetemplate.
func (l *layout) splice(text []byte, room slots) []byte {
	var f frame
	if json.Unmarshal(text, &f) != nil || f.Tree == nil {
		return text
	}
	maps.Copy(f.Tree, room)
	return f.encode()
}

// newcomers are the users in a roster who were not in an earlier one.
func newcomers(before, now []presence.User) map[string]bool {
	known := make(map[string]bool, len(before))
	for _, user := range before {
		known[user.ID] = true
	}
	came := map[string]bool{}
	for _, user := range now {
		if !known[user.ID] {
			came[user.ID] = true
		}
	}
	return came
}
