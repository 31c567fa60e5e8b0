package replica

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
)

// Nobody stays longer than the right to be there lasts, whatever happens to the socket
// and its replica. And nobody leaves earlier.
func TestLeaseEndsWithTheRightToBeThere(t *testing.T) {
	const right, trouble = 20 * time.Second, 14 * time.Second
	for what, happens := range map[string]func(t *testing.T, fake *redistest.Fake, a, b *process, m *Member, conn presence.Connection){
		"the replica is killed": func(_ *testing.T, _ *redistest.Fake, a, _ *process, _ *Member, _ presence.Connection) {
			a.kill()
		},
		"the socket closes": func(t *testing.T, _ *redistest.Fake, a, _ *process, m *Member, _ presence.Connection) {
			if err := a.Release(m); err != nil {
				t.Error(err)
			}
		},
		"it moves to another replica": func(t *testing.T, _ *redistest.Fake, a, b *process, m *Member, conn presence.Connection) {
			conn.Generation = presence.NewGeneration()
			if next, err := b.Resume(t.Context(), lobby, conn, living{}); err != nil || next == nil {
				t.Errorf("%v, %v", next, err)
			}
			_ = a.Release(m) // too late
		},
		"it joins again": func(t *testing.T, _ *redistest.Fake, a, _ *process, m *Member, conn presence.Connection) {
			conn.Generation = presence.NewGeneration()
			if _, _, err := a.Join(t.Context(), lobby, conn, living{}, m); err != nil {
				t.Error(err)
			}
		},
		"Redis loses all": func(_ *testing.T, fake *redistest.Fake, _, _ *process, _ *Member, _ presence.Connection) {
			fake.FlushAll()
		},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a, b := start(t, fake), start(t, fake).watching()
				a.join("Ben") // Ben's lease is renewed together with hers
				conn := connection("Ann", presence.NewGeneration())
				conn.Until = time.Now().Add(right)
				m, _, err := a.Join(t.Context(), lobby, conn, living{}, nil)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(trouble)
				happens(t, fake, a, b, m, conn)
				time.Sleep(right - trouble - 500*time.Millisecond)
				synctest.Wait()
				if b.last() != "2" {
					t.Errorf("a moment before the end the viewer sees %s", b.last())
				}
				time.Sleep(1500 * time.Millisecond)
				synctest.Wait()
				if b.last() != "1" {
					t.Errorf("a second after the end the viewer sees %s", b.last())
				}
			})
		})
	}
}

// A user joins whose right to be there ends soon. The request is given up just then, and
// the replica is killed. The user leaves in time.
func TestLeaseIsShortenedThoughTheCallerHasGone(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		const right = 5 * time.Second
		conn := connection("Ann", presence.NewGeneration())
		conn.Until = time.Now().Add(right)
		if _, err := a.store.Join(t.Context(), lobby, conn); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		a.addMember(ctx, lobby, conn, living{}, nil)
		a.kill()
		time.Sleep(right + time.Second)
		synctest.Wait()
		b.saw("0", "1", "0")
	})
}
