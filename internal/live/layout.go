package live

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
	"presence/internal/room"
	"presence/internal/wire"
)

// layout knows which slots of a room's page are shared by all visitors. It finds out by
// rendering the template.
type layout struct {
	page   *livetemplate.Template
	state  func(room.View) any // returns what the page is rendered from
	shared map[string]bool

	counts map[string][]byte // slots that show only the number of users, as they are for sampleUsers
	mark   wire.Mark         // how the visitor's own row is marked
}

// errLayout is returned for a template whose slots can't be divided into shared ones and
// others.
var errLayout = errors.New("the template of a room does not keep apart what is shared and what is the visitor's own")

// newLayout examines the template of a room.
func newLayout(page *livetemplate.Template, opts Options) (*layout, error) {
	l := &layout{page: page, state: opts.State, shared: map[string]bool{}, counts: map[string][]byte{}}
	first, err := l.blank()
	if err != nil {
		return nil, err
	}
	nobody := l.state(room.View{})
	if _, err := render(first, nobody, nil); err != nil {
		return nil, err
	}
	l.page = first // clones of a page that has been rendered need no parsing
	f, err := fieldsOf(reflect.TypeOf(nobody), opts.Messages)
	if err != nil {
		return nil, err
	}
	if err := l.divide(f); err != nil {
		return nil, err
	}
	if err := l.findCounts(); err != nil {
		return nil, err
	}
	return l, l.findMark(f)
}

// divide finds the slots that depend on shared fields of the state. It refuses a slot
// that also depends on other fields.
func (l *layout) divide(f *fields) error {
	shared, own := differences{}, differences{}
	rooms, visitors := f.samples(f.shared), f.samples(f.own)
	rooms = append(rooms, f.rows.marked(rooms[1], 0)) // the slots that the mark changes must not depend on fields of the visitor
	for _, grid := range []struct{ rooms, visitors []sample }{
		{rooms, append(visitors[:2:2], f.alikes(f.own)...)},
		{rooms[:2], visitors},
	} {
		var ofNobody []sampled // by room
		for i, visitor := range grid.visitors {
			var ofNothing sampled
			for n, room := range grid.rooms {
				now, err := l.sampled(room.with(f.own, visitor))
				if err != nil {
					return err
				}
				if i == 0 {
					ofNobody = append(ofNobody, now)
				}
				if n == 0 {
					ofNothing = now
				}
				own.add(ofNobody[n], now)
				shared.add(ofNothing, now)
			}
		}
	}
	for _, at := range slices.Sorted(maps.Keys(shared)) {
		l.shared[at] = true
		if _, both := own[at]; !both {
			continue
		}
		all, err := l.cause(f.shared, shared[at], at)
		if err != nil {
			return err
		}
		one, err := l.cause(f.own, own[at], at)
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: slot %s, after %q, depends on %s, which is shared, and on %s, which is not",
			errLayout, at, shared[at].to.slots.Before(at), all, one)
	}
	return nil
}

// sampled is a sample with the slots of its page.
type sampled struct {
	sample

	slots wire.Slots
}

func (l *layout) sampled(s sample) (sampled, error) {
	page, err := l.blank()
	if err != nil {
		return sampled{}, err
	}
	slots, err := render(page, s.state.Interface(), s.messages)
	return sampled{s, slots}, err
}

// differences holds, for each slot that differs, two samples in which it does.
type differences map[string]difference

type difference struct{ from, to sampled }

// add compares two samples.
func (d differences) add(from, to sampled) {
	for _, slots := range []wire.Slots{from.slots, to.slots} {
		for at := range slots {
			if _, known := d[at]; !known && !bytes.Equal(from.slots[at], to.slots[at]) {
				d[at] = difference{from, to}
			}
		}
	}
}

// cause returns the name of the field that makes a slot differ.
func (l *layout) cause(fields []field, d difference, at string) (string, error) {
	now := d.from
	for _, f := range fields {
		next := now.clone()
		f.copy(&d.to.sample, &next)
		then, err := l.sampled(next)
		if err != nil {
			return "", err
		}
		if !bytes.Equal(now.slots[at], then.slots[at]) {
			return f.name, nil
		}
		now = then
	}
	return "", fmt.Errorf("%w: slot %s is not the same each time it is rendered", errLayout, at)
}

// findCounts finds the slots that show the number of users and nothing else that changes.
func (l *layout) findCounts() error {
	view := room.View{AsOf: time.Unix(0, 0)}
	view.Users, view.Connections = sampleUsers, 1
	room, err := l.room(view)
	if err != nil {
		return err
	}
	for at, value := range room {
		if bytes.Contains(value, []byte(strconv.Itoa(sampleUsers))) {
			l.counts[at] = value
		}
	}
	two := []presence.Member{{User: presence.User{ID: "1", Name: "A"}}, {User: presence.User{ID: "2", Name: "B"}}}
	for _, roster := range [][]presence.Member{nil, two[:1], two} {
		for _, stale := range []bool{false, true} {
			for _, users := range []int{0, 1, 2, 100} {
				view.Members, view.Stale, view.Users, view.Connections = roster, stale, users, 2*users
				room, err := l.room(view)
				if err != nil {
					return err
				}
				counts := l.countsOf(users)
				maps.DeleteFunc(l.counts, func(at string, _ []byte) bool { return !bytes.Equal(room[at], counts[at]) })
			}
		}
	}
	if len(l.counts) == 0 {
		return fmt.Errorf("%w: no slot shows the number of users and nothing else", errLayout)
	}
	return nil
}

// findMark finds how the visitor's own row differs from other rows. It checks that the
// difference is the same in every sample, and that nothing else differs.
func (l *layout) findMark(f *fields) error {
	samples := slices.DeleteFunc(f.samples(f.shared), func(s sample) bool { return len(f.rows.ids(s)) == 0 })
	// Begin with a page that has one row.
	slices.SortStableFunc(samples, func(a, b sample) int { return len(f.rows.ids(a)) - len(f.rows.ids(b)) })
	known := false
	for _, s := range samples {
		plain, err := l.sampled(s)
		if err != nil {
			return err
		}
		for i, id := range f.rows.ids(s) {
			marked, err := l.sampled(f.rows.marked(s, i))
			if err != nil {
				return err
			}
			if !known {
				l.mark, known = wire.NewMark(plain.slots.Row(), marked.slots.Row(), id)
			}
			page := wire.Frame{Tree: plain.slots}.Encode()
			if known && !bytes.Equal(l.mark.Put(page, id), wire.Frame{Tree: marked.slots}.Encode()) {
				return fmt.Errorf("%w: more than a mark depends on which row is the visitor's own, or the mark is not always the same", errLayout)
			}
		}
	}
	if !known {
		return fmt.Errorf("%w: a row needs a slot of its id, and after it one that is empty unless the row is the visitor's own", errLayout)
	}
	return nil
}

// blank returns a page on which nothing has been rendered yet.
func (l *layout) blank() (*livetemplate.Template, error) {
	page, err := l.page.Clone()
	if err != nil {
		return nil, fmt.Errorf("clone the page: %w", err)
	}
	return page, nil
}

// allSlots renders a state on a new page, and returns all its slots.
func (l *layout) allSlots(state any) (wire.Slots, error) {
	page, err := l.blank()
	if err != nil {
		return nil, err
	}
	return render(page, state, nil)
}

// render renders a state on page, and returns the slots that have changed.
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

// room returns the shared slots of a page that shows view, with no row marked.
func (l *layout) room(view room.View) (wire.Slots, error) {
	whole, err := l.allSlots(l.state(view))
	maps.DeleteFunc(whole, func(at string, _ json.RawMessage) bool { return !l.shared[at] })
	return whole, err
}

// countsOf returns the slots that show only the number of users, for that number.
func (l *layout) countsOf(users int) wire.Slots {
	slots := wire.Slots{}
	for at, value := range l.counts {
		slots[at] = bytes.ReplaceAll(value, []byte(strconv.Itoa(sampleUsers)), []byte(strconv.Itoa(users)))
	}
	return slots
}
