// Package page does what a browser does with the frames of a live page: it merges
// updates into a tree, as the client of livetemplate does, and makes HTML of the tree.
package page

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Tree is the state of a live region in the browser: statics under "s", dynamics
// under "0", "1"…, ranges with their items under "d". It is the JSON of frames, decoded
// into Go's generic values.
type Tree = map[string]any

// Merge applies an update to known, as the client of livetemplate does: absent keys
// keep their values, a branch that can't be merged replaces the old one, and a list in
// the place of a range is a list of changes of that range. It changes known.
func Merge(known, update Tree) error {
	for key, value := range update {
		switch value := value.(type) {
		case []any:
			if rng, ok := known[key].(Tree); ok && isRange(rng) {
				if err := apply(rng, value); err != nil {
					return fmt.Errorf("slot %s: %w", key, err)
				}
				continue
			}
		case Tree:
			if before, ok := known[key].(Tree); ok && !replaces(before, value) {
				if err := Merge(before, value); err != nil {
					return fmt.Errorf("slot %s: %w", key, err)
				}
				continue
			}
		}
		known[key] = value
	}
	return nil
}

// replaces reports whether an update replaces the known value, instead of being merged
// into it.
func replaces(known, update Tree) bool {
	if _, whole := update["s"]; !whole {
		return false
	}
	if holdsRange(known) && !holdsRange(update) {
		return true
	}
	for key := range known {
		if _, err := strconv.Atoi(key); err == nil {
			if _, ok := update[key]; !ok {
				return true
			}
		}
	}
	return false
}

func isRange(t Tree) bool {
	_, ok := t["d"].([]any)
	return ok
}

func holdsRange(v any) bool {
	t, ok := v.(Tree)
	if !ok {
		return false
	}
	if isRange(t) {
		return true
	}
	for _, value := range t {
		if holdsRange(value) {
			return true
		}
	}
	return false
}

// apply makes the changes of a list to a range.
func apply(rng Tree, changes []any) error {
	items, _ := rng["d"].([]any)
	items = slices.Clone(items)
	for _, change := range changes {
		op, ok := change.([]any)
		if !ok || len(op) < 2 {
			return fmt.Errorf("change %v is none", change) //nolint:err113 // of a test
		}
		at := slices.IndexFunc(items, func(item any) bool { return keyOf(rng, item) == op[1] })
		if needs := op[0] == "i" || op[0] == "r" || op[0] == "u"; needs && at < 0 {
			return fmt.Errorf("change %v of what is not there", op[:2]) //nolint:err113 // of a test
		}
		list, _ := op[len(op)-1].([]any)
		switch {
		case op[0] == "a" || op[0] == "p":
			if list, _ = op[1].([]any); op[0] == "a" {
				items = append(items, list...)
			} else {
				items = slices.Concat(list, items)
			}
			if len(op) > 2 && op[2] != nil {
				rng["s"] = op[2]
			}
			if len(op) > 3 {
				rng["m"] = op[3]
			}
		case op[0] == "i" && len(op) > 2:
			if list == nil {
				list = []any{op[2]}
			}
			items = slices.Insert(items, at+1, list...)
		case op[0] == "r":
			items = slices.Delete(items, at, at+1)
		case op[0] == "u" && len(op) > 2:
			item, _ := items[at].(Tree)
			slots, _ := op[2].(Tree)
			if err := Merge(item, slots); err != nil {
				return err
			}
		case op[0] == "o":
			ordered := make([]any, 0, len(items))
			for _, key := range list {
				for _, item := range items {
					if keyOf(rng, item) == key {
						ordered = append(ordered, item)
					}
				}
			}
			items = ordered
		default:
			return fmt.Errorf("change %v is unknown", op[0]) //nolint:err113 // of a test
		}
	}
	rng["d"] = items
	return nil
}

// keyOf is the key of an item of a range.
func keyOf(rng Tree, item any) any {
	t, _ := item.(Tree)
	if key, ok := t["_k"]; ok {
		return key
	}
	meta, _ := rng["m"].(Tree)
	slot, _ := meta["idKey"].(string)
	return t[slot]
}

// ForgetRanges removes the items of ranges, and changes of them, from a tree: crowds do
// not read names and need not keep them.
func ForgetRanges(t Tree) {
	for key, value := range t {
		switch value := value.(type) {
		case []any:
			if key == "d" {
				t[key] = []any{}
			} else if key != "s" {
				delete(t, key)
			}
		case Tree:
			ForgetRanges(value)
		}
	}
}

// HTML is the HTML that the browser shows for a tree.
func HTML(t Tree) string {
	var b strings.Builder
	render(&b, t)
	return b.String()
}

// render writes the HTML of a part of a tree.
func render(b *strings.Builder, v any) {
	switch v := v.(type) {
	case string:
		b.WriteString(v)
	case float64:
		b.WriteString(strconv.FormatFloat(v, 'f', -1, 64))
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case Tree:
		statics, _ := v["s"].([]any)
		items, ok := v["d"].([]any)
		if !ok {
			interleave(b, statics, v)
			return
		}
		if len(items) == 0 {
			render(b, v["else"])
		}
		for _, item := range items {
			if slots, ok := item.(Tree); ok {
				interleave(b, statics, slots)
			}
		}
	}
}

func interleave(b *strings.Builder, statics []any, slots Tree) {
	for i, static := range statics {
		text, _ := static.(string)
		b.WriteString(text)
		if i < len(statics)-1 {
			render(b, slots[strconv.Itoa(i)])
		}
	}
}
