package harness

import (
	"fmt"
	"time"
)

// answerTimeout is how long a visitor waits for the answer to a button, well
// above what is promised, so that a test can say how late it was.
const answerTimeout = 10 * time.Second

// answer is the reply to an action.
type answer struct {
	success bool
	errors  map[string]string
}

// RefusalError is the error of an action that the server refused.
type RefusalError struct{ Reason string }

func (r *RefusalError) Error() string { return "refused: " + r.Reason }

// press is the frame that a button sends.
func press(action, name string) map[string]any {
	data := map[string]any{}
	if action == "join" {
		data["username"] = name
	}
	return map[string]any{"action": action, "data": data, "submitter": action}
}

// Join presses the button and waits for the answer. The error is a
// *[RefusalError] when the server said no, or wraps [ErrNotLive].
func (v *Visitor) Join(name string) error { return v.act(press("join", name)) }

// MustJoin joins, or fails the test.
func (v *Visitor) MustJoin(name string) *Visitor {
	v.t.Helper()
	if err := v.Join(name); err != nil {
		v.t.Fatalf("join as %s: %v", name, err)
	}
	return v
}

// Leave presses the button and waits for the answer. The errors are those of
// Join.
func (v *Visitor) Leave() error {
	v.forget()
	return v.act(press("leave", ""))
}

// JoinTwice joins under one name and then under another, or under the same
// again, without waiting in between, as a double click does. It returns the
// error of each.
func (v *Visitor) JoinTwice(first, second string) (error, error) {
	errs := v.actAll(press("join", first), press("join", second))
	return errs[0], errs[1]
}

// LeaveTwice is Leave by a double click. It returns the error of each.
func (v *Visitor) LeaveTwice() (error, error) {
	v.forget()
	errs := v.actAll(press("leave", ""), press("leave", ""))
	return errs[0], errs[1]
}

// forget has the page forget the name, as when Leave is pressed.
func (v *Visitor) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.remember, v.adopt, v.leaving = "", "", true
}

func (v *Visitor) act(frame map[string]any) error { return v.actAll(frame)[0] }

// actAll sends frames one after another, and waits for the answer to each.
func (v *Visitor) actAll(frames ...map[string]any) []error {
	errs := make([]error, len(frames))
	fail := func(from int, err error) []error {
		for i := from; i < len(errs); i++ {
			errs[i] = err
		}
		return errs
	}
	v.mu.Lock()
	if !v.live || v.answers != nil {
		v.mu.Unlock()
		return fail(0, ErrNotLive)
	}
	answers := make(chan answer, len(frames))
	v.answers = answers
	for _, frame := range frames {
		action, _ := frame["action"].(string)
		v.pending = append(v.pending, action)
	}
	conn := v.conn
	v.mu.Unlock()
	for _, frame := range frames {
		if err := v.send(conn, frame); err != nil {
			return fail(0, fmt.Errorf("%w: %w", ErrNotLive, err))
		}
	}
	limit := time.NewTimer(v.opts.Patience)
	defer limit.Stop()
	for i := range frames {
		select {
		case a, ok := <-answers:
			if !ok {
				return fail(i, fmt.Errorf("%w: lost before the answer", ErrNotLive))
			}
			if !a.success {
				errs[i] = &RefusalError{fmt.Sprint(a.errors)}
			}
		case <-limit.C:
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.answers == answers {
				v.answers, v.pending = nil, nil
			}
			return fail(i, fmt.Errorf("%w: no answer within %v", ErrNotLive, v.opts.Patience))
		}
	}
	return errs
}
