package harness

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"presence/test/page"
)

// apply applies one frame from the server to the page.
func (v *Visitor) apply(data []byte) error {
	var frame struct {
		Pong bool
		Tree page.Tree
		Meta *struct {
			Success bool
			Errors  map[string]string
			Action  string
		}
	}
	if err := json.Unmarshal(data, &frame); err != nil {
		return fmt.Errorf("frame %.200s: %w", data, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if frame.Pong {
		v.unanswered = time.Time{}
		return nil
	}
	v.frames++
	_, whole := frame.Tree["s"]
	if frame.Tree == nil || !v.live && !whole {
		return fmt.Errorf("frame %.200s has no tree, or is the first and not the whole page", data) //nolint:err113 // of a test
	}
	if !v.opts.Names {
		page.ForgetRanges(frame.Tree)
	}
	began := !v.live
	if v.live = true; began {
		v.tree = frame.Tree
	} else if err := page.Merge(v.tree, frame.Tree); err != nil {
		return fmt.Errorf("frame %.200s: %w", data, err)
	}
	if began || frame.Meta != nil && frame.Meta.Action == "leave" && !slices.Contains(v.pending[min(1, len(v.pending)):], "leave") {
		v.leaving = false
	}
	if began || len(frame.Tree) > 0 {
		v.noteLocked(v.read(v.htmlLocked()), true)
	}
	// An answer that no button waits for is to the page script, which joins again by itself.
	if frame.Meta != nil && len(v.pending) > 0 && v.pending[0] == frame.Meta.Action {
		v.answers <- answer{frame.Meta.Success, frame.Meta.Errors}
		if v.pending = v.pending[1:]; len(v.pending) == 0 {
			v.answers = nil
		}
	}
	return nil
}

func (v *Visitor) htmlLocked() string { return page.HTML(v.tree) }

// noteLocked adds what the page shows now to the history. socket tells a frame from a page
// that was loaded or posted.
func (v *Visitor) noteLocked(s Sight, socket bool) {
	s.At, s.Socket = time.Now(), socket
	if s.Joined && socket {
		v.adopt, v.refusals = "", 0
		if !v.leaving {
			v.remember = s.Name
		}
	}
	if v.wasJoined && socket && !s.Joined {
		v.remember = ""
	}
	v.wasJoined = s.Joined && socket
	if len(v.history) == 0 || !v.history[len(v.history)-1].same(s) {
		v.history = append(v.history, s)
	}
	v.wakeLocked()
}
