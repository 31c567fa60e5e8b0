package replica

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// remembers makes the process remember a connection without a socket.
func (p *process) remembers(id, user string) {
	p.t.Helper()
	_, err := p.Put(p.t.Context(), lobby, store.Wanted{
		Connection: presence.Connection{ID: id, User: presence.User{ID: user, Name: user}}, TTL: 5 * time.Minute,
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// A removed user is gone for good on all replicas, through whatever connection the user
// was there. The user's sockets are told.
func TestWhoWasRemovedStaysAway(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b, c := start(t, fake), start(t, fake).watching(), start(t, fake)
		why := make(chan error, 10)
		attend := func(p *process, id string) {
			conn := connection("Ann", presence.NewGeneration())
			conn.ID = id
			if _, _, err := p.Join(t.Context(), lobby, conn, evicted{why: why}, nil); err != nil {
				t.Fatal(err)
			}
		}
		ann := connection("Ann", "").User.ID
		attend(a, "tab-1")
		attend(b, "tab-2") // learns of it from the log
		attend(c, "tab-3") // looks at no room, so it learns of it when it renews
		b.remembers("put-1", ann)
		a.enter("Ben")
		time.Sleep(63 * time.Second) // between two renewals
		if _, err := a.Remove(t.Context(), lobby, ann); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if n := len(why); n != 2 {
			t.Errorf("%d sockets are told at once", n)
		}
		time.Sleep(time.Minute)
		if n := len(why); n != 3 {
			t.Errorf("%d sockets are told", n)
		}
		for range len(why) {
			if err := <-why; !errors.Is(err, presence.ErrRemoved) {
				t.Errorf("it is told %v", err)
			}
		}
		if n := a.members.count() + b.members.count() + c.members.count(); n != 1 {
			t.Errorf("%d members are left at replicas", n)
		}
		fake.FlushAll()
		time.Sleep(time.Minute)
		if names := a.names(); names != "[Ben]" {
			t.Errorf("after a loss there are %s", names)
		}
		b.saw("0", "2", "1", "1 stale", "1")
	})
}

// Redis loses its data, and a user is removed before anybody has put the user back. The
// user stays away, whichever replica holds the connection, and the socket is told.
func TestWhoWasRemovedRightAfterALossStaysAway(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, 2 * time.Second} {
		for _, here := range []bool{true, false} {
			t.Run(fmt.Sprintf("%v later, here %v", after, here), func(t *testing.T) {
				bubble(t, func(t *testing.T, fake *redistest.Fake) {
					a, b := start(t, fake), start(t, fake)
					holder := b
					if here {
						holder = a
					}
					why := make(chan error, 1)
					conn := connection("Ann", presence.NewGeneration())
					if _, _, err := holder.Join(t.Context(), lobby, conn, evicted{why: why}, nil); err != nil {
						t.Fatal(err)
					}
					holder.remembers("put", conn.User.ID)
					b.join("Ben")
					time.Sleep(63 * time.Second) // between two renewals
					fake.FlushAll()
					time.Sleep(after)
					if _, err := a.Remove(t.Context(), lobby, conn.User.ID); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
					if names := a.names(); names != "[Ben]" {
						t.Errorf("there are %s", names)
					}
					select {
					case err := <-why:
						if !errors.Is(err, presence.ErrRemoved) {
							t.Errorf("the socket is told %v", err)
						}
					default:
						t.Error("the socket is not told")
					}
					if _, _, err := a.Join(t.Context(), lobby, connection("Ann", presence.NewGeneration()), living{}, nil); err != nil {
						t.Fatal(err)
					}
					fake.Del("presence:{lobby}:users")
					time.Sleep(time.Minute)
					if names := a.names(); names != "[Ben Ann]" {
						t.Errorf("after she came back there are %s", names)
					}
				})
			})
		}
	}
}

// Late news of a removal do not affect a user who came back after it.
func TestWhoCameBackStays(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake).watching()
		a.enter("Ann")
		ann := connection("Ann", "").User.ID
		o, err := a.Remove(t.Context(), lobby, ann)
		if err != nil || o.Users != 0 {
			t.Fatal(o, err)
		}
		a.enter("Ann")
		a.Removed(lobby, ann, o.Version)
		time.Sleep(time.Minute)
		if names := a.names(); names != "[Ann]" || a.members.count() != 1 {
			t.Errorf("there are %s, %d members here", names, a.members.count())
		}
		for since, want := range map[int64]bool{0: true, o.Version: true, o.Version + 1: false} {
			if was, err := a.WasRemoved(t.Context(), lobby, ann, since); was != want || err != nil {
				t.Errorf("WasRemoved of a user who came %d after the removal: %v, %v", since-o.Version, was, err)
			}
		}
		time.Sleep(10 * time.Minute)
		if was, err := a.WasRemoved(t.Context(), lobby, ann, 0); was || err != nil {
			t.Errorf("was removed long ago: %v, %v", was, err)
		}
	})
}

// Two programs change a user at the same time, and both changes are made. A replica
// remembers the last change for a connection without a socket.
func TestUpdateLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake)
		a.remembers("c1", "ann")
		const n = 20
		errs := make(chan error, n)
		for i := range n {
			go func() {
				_, _, err := a.Update(t.Context(), lobby, "c1", func(u presence.User) (presence.User, error) {
					u.Meta += fmt.Sprintf(" %d", i)
					return u, nil
				})
				errs <- err
			}()
		}
		for range n {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		member, _, err := a.Update(t.Context(), lobby, "c1", func(u presence.User) (presence.User, error) { return u, nil })
		sum := 0
		for field := range strings.FieldsSeq(member.Meta) {
			i, _ := strconv.Atoi(field)
			sum += i
		}
		if err != nil || sum != n*(n-1)/2 {
			t.Errorf("there is %q, %v", member.Meta, err)
		}
		if _, _, err := a.Update(t.Context(), lobby, "c2", nil); !errors.Is(err, presence.ErrNotPresent) {
			t.Errorf("Update of a user who is not present: %v", err)
		}
		fake.FlushAll()
		time.Sleep(30 * time.Second)
		readings, err := a.store.Read(t.Context(), store.Have{Room: lobby})
		if err != nil || len(readings[0].Members) != 1 || readings[0].Members[0].Meta != member.Meta {
			t.Errorf("put back: %+v, %v", readings, err)
		}
	})
}

// A replica forgets a connection without a socket when others end it or put it again. It
// does not put it back when Redis loses its data.
func TestPutsThatEndedElsewhereAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		for _, id := range []string{"c1", "c2", "c3"} {
			a.remembers(id, "user-"+id)
		}
		if _, err := b.End(t.Context(), lobby, "c1"); err != nil {
			t.Fatal(err)
		}
		b.remembers("c2", "another") // replaces the old one
		time.Sleep(DefaultHeartbeatInterval + time.Second)
		if _, err := b.End(t.Context(), lobby, "c2"); err != nil {
			t.Fatal(err)
		}
		fake.FlushAll()
		time.Sleep(20 * time.Second)
		if names := a.names(); names != "[user-c3]" {
			t.Errorf("put back are %s", names)
		}
		if n := a.puts.n + b.puts.n; n != 1 {
			t.Errorf("%d are remembered", n)
		}
	})
}

// The time for which Redis could not be reached does not count against a lease. A
// connection that others ended meanwhile does not come back.
func TestOutagesDoNotCountAgainstLeases(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		a.remembers("c1", "ann") // for 5 minutes
		a.remembers("c2", "ben")
		time.Sleep(time.Minute)
		a.link.Cut()
		if _, err := b.End(t.Context(), lobby, "c2"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		a.link.Mend()
		time.Sleep(3*time.Minute + 50*time.Second)
		if names := b.names(); names != "[ann]" {
			t.Errorf("before the lease has run out there are %s", names)
		}
		time.Sleep(20 * time.Second)
		if names := b.names(); names != "[]" {
			t.Errorf("after the lease has run out there are %s", names)
		}
	})
}

// An outage prolongs no lease beyond the user's right to be there.
func TestOutagesProlongNoRight(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake)
		until := time.Now().Add(5 * time.Minute)
		for _, id := range []string{"put", "renewed"} {
			w := store.Wanted{Connection: presence.Connection{ID: id, Until: until, User: presence.User{ID: id, Name: id}}, TTL: 5 * time.Minute}
			if _, err := a.Put(t.Context(), lobby, w); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		if found, err := a.Renew(t.Context(), lobby, []string{"renewed"}, time.Until(until), "", until); err != nil || found[0].ID == "" {
			t.Fatalf("%v, %v", found, err)
		}
		a.link.Cut()
		time.Sleep(2 * time.Minute)
		a.link.Mend()
		time.Sleep(time.Until(until) - 10*time.Second)
		if names := b.names(); names != "[put renewed]" {
			t.Errorf("before the end there are %s", names)
		}
		time.Sleep(20 * time.Second)
		if names := b.names(); names != "[]" {
			t.Errorf("after the end there are %s", names)
		}
	})
}

// A user who is renewed or put right after Redis lost its data is there as before.
func TestPutsRightAfterALossChangeNothing(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a := start(t, fake).watching()
		time.Sleep(10 * time.Second)
		for _, id := range []string{"c1", "c2"} {
			w := store.Wanted{Connection: presence.Connection{ID: id, User: presence.User{ID: "u-" + id, Name: "Ann", Meta: `{"a":1}`}}, TTL: time.Minute}
			if _, err := a.Put(t.Context(), lobby, w); err != nil {
				t.Fatal(err)
			}
		}
		read := func() []presence.Member {
			readings, err := a.store.Read(t.Context(), store.Have{Room: lobby})
			if err != nil || readings[0].Err != nil {
				t.Fatal(err, readings)
			}
			return readings[0].Members
		}
		before := read()
		time.Sleep(40 * time.Second)
		fake.FlushAll()
		found, err := a.Renew(t.Context(), lobby, []string{"c1", "c3"}, time.Minute, "", time.Time{})
		if err != nil || found[0].User != before[0].User || found[1].ID != "" {
			t.Fatalf("renewed: %+v, %v", found, err)
		}
		time.Sleep(a.links.probe + time.Millisecond)
		if _, err := a.Put(t.Context(), lobby, store.Wanted{Connection: presence.Connection{ID: "c2", User: presence.User{ID: "u-c2", Name: "x"}}, TTL: time.Minute}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if after := read(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("there are %v, and were %v", after, before)
		}
	})
}
