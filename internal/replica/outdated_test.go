package replica

import (
	"errors"
	"testing"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// stopped makes the process find that it did not run for a while.
func (p *process) stopped() {
	l := p.links
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ran = l.ran.Add(-l.stop - time.Second)
}

// A process that was stopped reads old requests. Their senders may have turned to another
// replica since. It carries out none of them, but serves clients that answer.
func TestNothingOldIsDoneAfterAStop(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		time.Sleep(time.Minute)
		ben := b.enter("Ben")
		requests := map[string]func() error{
			"put": func() error {
				_, err := a.Put(t.Context(), lobby, store.Wanted{Connection: connection("Ann", ""), TTL: time.Minute})
				return err
			},
			"attend": func() error {
				_, _, err := a.Attend(t.Context(), lobby, store.Wanted{Connection: connection("Ann", presence.NewGeneration())}, living{})
				return err
			},
			"end": func() error {
				_, err := a.End(t.Context(), lobby, ben.conn.ID)
				return err
			},
			"remove": func() error {
				_, err := a.Remove(t.Context(), lobby, ben.conn.User.ID)
				return err
			},
			"update": func() error {
				_, _, err := a.Update(t.Context(), lobby, ben.conn.ID, func(u presence.User) (presence.User, error) {
					u.Name = "Benjamin"
					return u, nil
				})
				return err
			},
		}
		refused := func() {
			t.Helper()
			for what, do := range requests {
				if err := do(); !errors.Is(err, presence.ErrUnavailable) {
					t.Errorf("%s after a stop: %v", what, err)
				}
			}
			if _, _, err := a.Join(t.Context(), lobby, connection("Ann", presence.NewGeneration()), deaf{}, nil); !errors.Is(err, presence.ErrSuperseded) {
				t.Errorf("a join through a socket that was given up: %v", err)
			}
		}
		a.stopped()
		refused()
		a.enter("Cid") // Cid's browser answers
		time.Sleep(a.links.probe)
		refused()
		b.saw("0", "1", "2")
		time.Sleep(a.links.settle + a.links.probe)
		for _, what := range []string{"put", "update"} {
			if err := requests[what](); err != nil {
				t.Errorf("%s later: %v", what, err)
			}
		}
	})
}

// deaf is a socket that the browser has closed.
type deaf struct{}

func (deaf) Answered() time.Time { return time.Time{} }
func (deaf) Ping() error         { return errors.New("closed") }
