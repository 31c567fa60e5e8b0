package replica

import (
	"fmt"
	"testing"
	"time"

	"presence/internal/redistest"
	"presence/internal/store"
)

// One answer of Redis is lost. That marks no page as stale, however many rooms the call
// was about.
func TestLostAnswerAboutManyRoomsIsOneFailure(t *testing.T) {
	for name, enter := range map[string]func(a *process, room, user string) error{
		"heartbeat": func(a *process, room, user string) error { a.in(room, user); return nil },
		"extend":    func(a *process, room, user string) error { return a.put(room, connection(user, "")) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a := start(t, fake).watching()
				for i := range 5 * slots { // so that rooms share a round trip
					if err := enter(a, fmt.Sprintf("room-%03d", i), fmt.Sprintf("user%03d", i)); err != nil {
						t.Fatal(err)
					}
				}
				a.link.LoseReply("c-user007", 0) // the next call with it is that of this script
				time.Sleep(DefaultHeartbeatInterval + store.DefaultCallTimeout)
				if failed := a.failures(name); failed < 2 {
					t.Fatalf("%v calls have failed, want those of several rooms", failed)
				}
				a.saw("0")
			})
		})
	}
}

// The same holds for a question about many rooms.
func TestLostAnswerToAQuestionAboutManyRoomsIsOneFailure(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake).watching()
		a.in("kitchen", "Ann")
		time.Sleep(time.Second)
		a.link.LoseReply("{kitchen}", 0)
		if _, err := a.rooms.Pick(t.Context(), nil, "kitchen", "hall"); err == nil {
			t.Fatal("the question was answered")
		}
		time.Sleep(time.Second)
		a.saw("0")
	})
}

// failures returns how many calls of a script have failed.
func (p *process) failures(script string) (n float64) {
	p.t.Helper()
	families, err := p.registry.Gather()
	if err != nil {
		p.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "presence_redis_call_errors_total" && m.GetLabel()[0].GetValue() == script {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// Redis loses all data. Each room is shown again only once its users are back, also when
// the rooms are many and each call takes some time.
func TestManyRoomsAreBackBeforeTheyAreShown(t *testing.T) {
	for name, enter := range map[string]func(a *process, room, user string) error{
		"members": func(a *process, room, user string) error { a.in(room, user); return nil },
		"puts":    func(a *process, room, user string) error { return a.put(room, connection(user, "")) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, fake *redistest.Fake) {
				a := startWith(t, fake, Options{HeartbeatInterval: time.Second})
				rooms := make([]string, 150)
				for i := range rooms {
					rooms[i] = fmt.Sprintf("room-%03d", i)
					if err := enter(a, rooms[i], fmt.Sprintf("user%03d", i)); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(2 * time.Second)
				a.link.Delay(5 * time.Millisecond)
				fake.FlushAll()
				for lost := false; !lost || a.Trusted(rooms[0]) != nil; time.Sleep(time.Millisecond) {
					lost = lost || a.Trusted(rooms[0]) != nil
				}
				for _, room := range rooms {
					if n, _ := fake.HKeys("presence:{" + room + "}:users"); a.Trusted(room) == nil && len(n) != 1 {
						t.Errorf("%s is shown with %d users, want 1", room, len(n))
					}
				}
			})
		})
	}
}

// Many members of one room end at once. While a replica sweeps them, which takes long, a
// member of another room leaves in time.
func TestSweepOfALargeRoomDelaysNoOther(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		ben := b.in("kitchen", "Ben")
		for i := range 40 * store.SweepSize {
			a.join(fmt.Sprint("user", i))
		}
		a.kill() // before its first heartbeat, so the leases end together
		time.Sleep(store.DefaultMemberTTL - store.DefaultLeaveGrace + 500*time.Millisecond)
		b.link.Delay(100 * time.Millisecond)
		if err := b.Release(ben); err != nil {
			t.Fatal(err)
		}
		time.Sleep(store.DefaultLeaveGrace + 3*time.Second)
		if n, _ := fake.HKeys("presence:{kitchen}:users"); len(n) != 0 {
			t.Error("Ben is still in the kitchen")
		}
		if n, _ := fake.HKeys("presence:{lobby}:users"); len(n) == 0 {
			t.Error("the lobby was swept already")
		}
		time.Sleep(20 * time.Second)
		if n, _ := fake.HKeys("presence:{lobby}:users"); len(n) != 0 {
			t.Errorf("%d users are still in the lobby", len(n))
		}
	})
}
