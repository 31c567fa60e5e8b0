package live

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
	"presence/internal/replica"
	"presence/internal/wire"
)

// layout knows which slots of the page of a room are shared by all who look at it,
// and which are the visitor's own. It finds out by rendering the template.
type layout struct {
	page   *livetemplate.Template
	state  func(replica.View) any // what the page is rendered from
	shared map[string]bool

	count count
	mark  wire.Mark // of the visitor's own row
}

// count is the slot of the number of users, and what stands there when it is
// SampleUsers.
type count struct {
	at    string
	value []byte
}

// SampleUsers is a number of users that nothing else on a page looks like.
const SampleUsers = 4_711_081_547

// Samples are states of a page from which its layout is found out.
type Samples struct {
	// State is the state of a page that shows a view to somebody who is not known.
	State func(replica.View) any

	Base    any               // a state
	Shared  []any             // each differs from Base in what all share
	Own     any               // differs in what is the visitor's own
	Flashes map[string]string // what else is

	ID            string // of a user
	Plain, Marked any    // only that user is in the roster, of SampleUsers; the row is marked in one
}

// errLayout is returned for a template that a page can't be divided by.
var errLayout = errors.New("the template of a room does not keep apart what is shared and what is the visitor's own")

// newLayout examines the template of a room.
func newLayout(page *livetemplate.Template, samples Samples) (*layout, error) {
	l := &layout{page: page, state: samples.State, shared: map[string]bool{}}
	for _, state := range samples.Shared {
		changed, err := l.changes(samples.Base, state, nil)
		if err != nil {
			return nil, err
		}
		for at, value := range changed {
			l.shared[at] = true
			if bytes.Contains(value, []byte(strconv.Itoa(SampleUsers))) && l.count.at == "" {
				l.count.at = at
			}
		}
	}
	messages := map[string]string{}
	for key, text := range samples.Flashes {
		messages[wire.FlashPrefix+key] = text
	}
	own, err := l.changes(samples.Base, samples.Own, messages)
	if err != nil {
		return nil, err
	}
	for at := range own {
		if l.shared[at] {
			return nil, fmt.Errorf("%w: slot %s", errLayout, at)
		}
	}

	plain, err := l.whole(samples.Plain)
	if err != nil {
		return nil, err
	}
	l.count.value = plain[l.count.at]
	if bytes.Count(l.count.value, []byte(strconv.Itoa(SampleUsers))) != 1 {
		return nil, fmt.Errorf("%w: it shows the number of users nowhere, or twice", errLayout)
	}
	marked, err := l.whole(samples.Marked)
	if err != nil {
		return nil, err
	}
	var ok bool
	if l.mark, ok = wire.NewMark(plain.Row(), marked.Row(), samples.ID); !ok {
		return nil, fmt.Errorf("%w: a row of the roster is none that can be marked", errLayout)
	}
	return l, nil
}

// blank returns a page that has shown nothing yet.
func (l *layout) blank() (*livetemplate.Template, error) {
	page, err := l.page.Clone()
	if err != nil {
		return nil, fmt.Errorf("clone the page: %w", err)
	}
	return page, nil
}

// whole renders a state and returns all its slots, complete.
func (l *layout) whole(state any) (wire.Slots, error) {
	page, err := l.blank()
	if err != nil {
		return nil, err
	}
	return render(page, state, nil)
}

// changes renders a page that shows one state and then another, and returns what
// has changed.
func (l *layout) changes(from, to any, messages map[string]string) (wire.Slots, error) {
	page, err := l.blank()
	if err != nil {
		return nil, err
	}
	if _, err := render(page, from, nil); err != nil {
		return nil, err
	}
	return render(page, to, messages)
}

// render renders a state on a page of its own, and returns what is new on it.
func render(page *livetemplate.Template, state any, messages map[string]string) (wire.Slots, error) {
	var out bytes.Buffer
	if err := page.ExecuteUpdates(&out, state, messages); err != nil {
		return nil, fmt.Errorf("render a room: %w", err)
	}
	var changed wire.Slots
	if err := json.Unmarshal(out.Bytes(), &changed); err != nil {
		return nil, fmt.Errorf("render a room: %w", err)
	}
	return changed, nil
}

// room returns the shared slots of a page that shows view, complete, with nobody's
// own row marked.
func (l *layout) room(view replica.View) (wire.Slots, error) {
	whole, err := l.whole(l.state(view))
	maps.DeleteFunc(whole, func(at string, _ json.RawMessage) bool { return !l.shared[at] })
	return whole, err
}

// countOf is the slot of the number of users, complete.
func (l *layout) countOf(users int) json.RawMessage {
	return bytes.Replace(l.count.value, []byte(strconv.Itoa(SampleUsers)), []byte(strconv.Itoa(users)), 1)
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
