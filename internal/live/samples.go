package live

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"

	"presence/internal/wire"
)

// The tag of a field of the state says to whom it belongs:
//
//	live:"shared"  the same for all visitors of the room
//	live:"own"     belongs to the visitor or the page: livetemplate renders it for each
//
// The rows of a shared list can also have:
//
//	live:"id"      identifies the row; shared
//	live:"mark"    true in the visitor's own row
const (
	tagKey    = "live"
	tagShared = "shared"
	tagOwn    = "own"
	tagID     = "id"
	tagMark   = "mark"
)

// sampleUsers is a number that looks like nothing else on a page.
const sampleUsers = 4_711_081

// errState is returned for a state whose fields can't be varied.
var errState = errors.New("the state of a page can't be examined")

// sample is a state of a page, with the messages that livetemplate has for it.
type sample struct {
	state    reflect.Value // a struct
	messages map[string]string
}

func (s sample) clone() sample {
	state := reflect.New(s.state.Type()).Elem()
	state.Set(s.state)
	return sample{state, maps.Clone(s.messages)}
}

// Texts of the first row. A template may compare fields of the visitor with them.
const (
	rowID   = "id-of-row-0"
	rowText = "Text 0"
)

// fields are all fields that the page of a room is rendered from.
type fields struct {
	state       reflect.Type
	shared, own []field
	rows        rows
}

// field is a part of a state, or one of its messages, that varies by itself.
type field struct {
	name string
	zero func(*sample)
	set  []func(*sample) // set the field to values that are not zero; the first values of all fields fit together
	copy func(from, to *sample)
	text func(s *sample, value string) // sets the field to a text; nil if it holds no text
}

// rows are the indexes of the list of rows, and of a row's id and mark.
type rows struct{ list, id, mark []int }

// fieldsOf examines the type of a state. keys are the keys of messages.
func fieldsOf(state reflect.Type, keys []string) (*fields, error) {
	if state == nil || state.Kind() != reflect.Struct {
		return nil, fmt.Errorf("%w: it is no struct", errState)
	}
	all := &fields{state: state}
	for f := range state.Fields() {
		var err error
		var values []reflect.Value
		tag := f.Tag.Get(tagKey)
		switch {
		case !f.IsExported():
			err = errors.New("it is not exported")
		case tag == tagShared && f.Type.Kind() == reflect.Slice:
			values, err = all.rowLists(f)
		case tag == tagShared || tag == tagOwn:
			values, err = valuesOf(f.Type, f.Name)
		default:
			err = fmt.Errorf(`it needs the tag %s:"%s" or %s:"%s"`, tagKey, tagShared, tagKey, tagOwn)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: field %s: %w", errState, f.Name, err)
		}
		if part := stateField(f, values); tag == tagShared {
			all.shared = append(all.shared, part)
		} else {
			all.own = append(all.own, part)
		}
	}
	if all.rows.list == nil {
		return nil, fmt.Errorf("%w: it has no list of rows that is shared", errState)
	}
	for _, key := range keys {
		all.own = append(all.own,
			messageField(fmt.Sprintf("flash %q", key), wire.FlashPrefix+key),
			messageField(fmt.Sprintf("error %q", key), key))
	}
	return all, nil
}

func stateField(f reflect.StructField, values []reflect.Value) field {
	at := f.Index[0]
	part := field{
		name: f.Name,
		zero: func(s *sample) { s.state.Field(at).SetZero() },
		copy: func(from, to *sample) { to.state.Field(at).Set(from.state.Field(at)) },
	}
	for _, value := range values {
		part.set = append(part.set, func(s *sample) { s.state.Field(at).Set(value) })
	}
	if f.Type.Kind() == reflect.String {
		part.text = func(s *sample, value string) { s.state.Field(at).SetString(value) }
	}
	return part
}

// messageField returns the field for a message of livetemplate: a flash, or the error of
// a form field.
func messageField(name, key string) field {
	return field{
		name: name,
		zero: func(s *sample) { delete(s.messages, key) },
		set:  []func(*sample){func(s *sample) { s.messages[key] = "Message" }},
		copy: func(from, to *sample) {
			if text, ok := from.messages[key]; ok {
				to.messages[key] = text
			} else {
				delete(to.messages, key)
			}
		},
	}
}

// valuesOf returns values of a type that are not zero. Texts begin with name.
func valuesOf(t reflect.Type, name string) ([]reflect.Value, error) {
	var values []reflect.Value
	add := func(set func(reflect.Value)) {
		value := reflect.New(t).Elem()
		set(value)
		values = append(values, value)
	}
	switch t.Kind() {
	case reflect.Bool:
		add(func(v reflect.Value) { v.SetBool(true) })
	case reflect.Int, reflect.Int32, reflect.Int64:
		for _, n := range []int64{1, sampleUsers} {
			add(func(v reflect.Value) { v.SetInt(n) })
		}
	case reflect.String:
		add(func(v reflect.Value) { v.SetString(name + " sample") })
	case reflect.Slice:
		items, err := valuesOf(t.Elem(), name)
		if err != nil {
			return nil, err
		}
		for _, item := range items {
			add(func(v reflect.Value) { v.Set(reflect.Append(v, item)) })
		}
	case reflect.Struct:
		for f := range t.Fields() {
			if !f.IsExported() {
				return nil, fmt.Errorf("its field %s is not exported", f.Name)
			}
			parts, err := valuesOf(f.Type, name+" "+f.Name)
			if err != nil {
				return nil, err
			}
			if len(values) == 0 {
				add(func(reflect.Value) {})
			}
			values[0].FieldByIndex(f.Index).Set(parts[0]) // the first value has all fields
			for _, part := range parts {
				add(func(v reflect.Value) { v.FieldByIndex(f.Index).Set(part) })
			}
		}
	default:
		return nil, fmt.Errorf("values of type %s can't be made up yet", t)
	}
	return values, nil
}

// rowLists returns lists of two rows, of one row, and of one row that differs in a field.
// No row is marked.
func (all *fields) rowLists(list reflect.StructField) ([]reflect.Value, error) {
	row := list.Type.Elem()
	switch {
	case row.Kind() != reflect.Struct:
		return nil, errors.New("what is shared is no list of structs")
	case all.rows.list != nil:
		return nil, errors.New("it is a second list")
	}
	all.rows.list = list.Index
	first, second := reflect.New(row).Elem(), reflect.New(row).Elem()
	var others []reflect.Value
	for f := range row.Fields() {
		tag := f.Tag.Get(tagKey)
		if tag == tagMark && f.Type.Kind() == reflect.Bool {
			all.rows.mark = f.Index
			continue
		}
		values, err := valuesOf(f.Type, f.Name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("a row's %s: %w", f.Name, err)
		case tag == tagID && f.Type.Kind() == reflect.String:
			all.rows.id = f.Index
			first.FieldByIndex(f.Index).SetString(rowID)
			second.FieldByIndex(f.Index).SetString(rowID + "0")
		case tag == tagShared && f.Type.Kind() == reflect.String:
			first.FieldByIndex(f.Index).SetString(rowText)
		case tag != tagShared:
			return nil, fmt.Errorf(`a row's %s needs a tag: %s:"%s", or "%s" for its id, or "%s" for a bool that marks the visitor's own`,
				f.Name, tagKey, tagShared, tagID, tagMark)
		}
		for _, value := range values {
			other := reflect.New(row).Elem()
			other.FieldByIndex(f.Index).Set(value)
			others = append(others, other)
		}
	}
	if all.rows.id == nil || all.rows.mark == nil {
		return nil, fmt.Errorf(`its rows need fields with the tags %s:"%s" and %s:"%s"`, tagKey, tagID, tagKey, tagMark)
	}
	of := func(rows ...reflect.Value) reflect.Value {
		return reflect.Append(reflect.MakeSlice(list.Type, 0, len(rows)), rows...)
	}
	lists := []reflect.Value{of(first, second), of(first)}
	for _, other := range others {
		if id := other.FieldByIndex(all.rows.id); id.IsZero() {
			id.SetString(rowID)
		}
		lists = append(lists, of(other))
	}
	return lists, nil
}

// ids returns the ids of the rows of s.
func (r rows) ids(s sample) []string {
	list := s.state.FieldByIndex(r.list)
	ids := make([]string, list.Len())
	for i := range ids {
		ids[i] = list.Index(i).FieldByIndex(r.id).String()
	}
	return ids
}

// marked returns s with row i marked.
func (r rows) marked(s sample, i int) sample {
	s = s.clone()
	list := s.state.FieldByIndex(r.list)
	list.Set(reflect.AppendSlice(reflect.MakeSlice(list.Type(), 0, list.Len()), list))
	list.Index(i).FieldByIndex(r.mark).SetBool(true)
	return s
}

// randomSamples is the number of samples in which each field has a random one of its
// values.
const randomSamples = 4

// samples returns samples in which some fields have been varied: one with no field set
// and one with all set, which come first; then each field varied by itself in both; and
// some at random.
func (all *fields) samples(vary []field) []sample {
	nothing, full := all.nothing(), all.nothing()
	for _, f := range vary {
		f.set[0](&full)
	}
	samples := []sample{nothing, full}
	add := func(from sample, change func(*sample)) {
		s := from.clone()
		change(&s)
		samples = append(samples, s)
	}
	for _, f := range vary {
		add(full, f.zero)
		for i, set := range f.set {
			add(nothing, set)
			if i > 0 {
				add(full, set)
			}
		}
	}
	rnd := rand.New(rand.NewPCG(0, 0)) // the same at each start
	for range randomSamples {
		add(nothing, func(s *sample) {
			for _, f := range vary {
				if n := rnd.IntN(len(f.set) + 1); n > 0 {
					f.set[n-1](s)
				}
			}
		})
	}
	return samples
}

// alikes returns samples in which some fields are all set, and each text among them
// equals a text of the first row.
func (all *fields) alikes(vary []field) []sample {
	var samples []sample
	for _, text := range []string{rowID, rowText} {
		s := all.nothing()
		for _, f := range vary {
			f.set[0](&s)
			if f.text != nil {
				f.text(&s, text)
			}
		}
		samples = append(samples, s)
	}
	return samples
}

// nothing returns a state in which no field is set.
func (all *fields) nothing() sample {
	return sample{reflect.New(all.state).Elem(), map[string]string{}}
}

// with returns s with the given fields of other.
func (s sample) with(fields []field, other sample) sample {
	s = s.clone()
	for _, f := range fields {
		f.copy(&other, &s)
	}
	return s
}
