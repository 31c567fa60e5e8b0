package store

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"presence/internal/presence"
)

// leaves returns the store's counts, in the order left, closed, timeout, removed.
func leaves(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	counted := map[string]int{}
	for _, family := range must(registry.Gather()) {
		if family.GetName() == "presence_leaves_total" {
			for _, m := range family.GetMetric() {
				counted[m.GetLabel()[0].GetValue()] = int(m.GetCounter().GetValue())
			}
		}
	}
	if len(counted) != 4 {
		t.Fatalf("reasons %v", counted)
	}
	return fmt.Sprint(counted["left"], counted["closed"], counted["timeout"], counted["removed"])
}

// reasons returns who has left since a version, and why, from the log.
func reasons(t *testing.T, s *Store, since presence.Snapshot) map[string]presence.Reason {
	t.Helper()
	readings, err := s.Read(t.Context(), Have{Room: "r", Version: since.Version, Birth: since.Birth})
	if err != nil || readings[0].Err != nil || readings[0].Whole {
		t.Fatalf("the log does not lead on: %+v, %v", readings, err)
	}
	why := map[string]presence.Reason{}
	for _, c := range readings[0].Changes {
		for _, l := range c.Left {
			why[l.User] = l.Reason
		}
	}
	return why
}

// Each way to leave has its reason in the log. The store that made the change counts it,
// once for each user.
func TestReasonsOfLeaves(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		registry, elsewhere := prometheus.NewRegistry(), prometheus.NewRegistry()
		s, other := e.store(t, Options{Registerer: registry}), e.store(t, Options{Registerer: elsewhere})
		if got := leaves(t, registry); got != "0 0 0 0" {
			t.Fatalf("at the start: %s", got)
		}
		demand := func(what string, since presence.Snapshot, want map[string]presence.Reason, counted string) presence.Snapshot {
			t.Helper()
			if got := reasons(t, s, since); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s: left %v, want %v", what, got, want)
			}
			if got := leaves(t, registry); got != counted {
				t.Errorf("%s: counted %s, want %s", what, got, counted)
			}
			return read(t, s, "r")
		}
		id := func(name string) string { return user(name).ID }
		for i, name := range []string{"Ann", "Ben", "Cid", "Dan", "Eve", "Eve", "Fay", "stays"} {
			join(t, s, "r", conn(fmt.Sprint("c", i), "gen1", name))
		}
		now := read(t, s, "r")

		must(s.Leave(ctx, "r", "c0", ""))
		must(s.Leave(ctx, "r", "c0", "")) // again
		now = demand("leave", now, map[string]presence.Reason{id("Ann"): presence.ReasonLeft}, "1 0 0 0")

		join(t, s, "r", conn("c1", "gen2", "Ben's other name"))
		now = demand("another user", now, map[string]presence.Reason{id("Ben"): presence.ReasonLeft}, "2 0 0 0")

		put := conn("c1", "~abc", "Gil")
		must(s.Put(ctx, "r", Wanted{Connection: put, TTL: 30 * e.unit}))
		now = demand("another user by a put", now, map[string]presence.Reason{id("Ben's other name"): presence.ReasonLeft}, "3 0 0 0")

		must(s.Leave(ctx, "r", "c4", "")) // Eve has another connection
		now = demand("one of two", now, nil, "3 0 0 0")

		for _, c := range []string{"c2", "c5"} {
			if err := s.Release(ctx, "r", c, "gen1"); err != nil {
				t.Fatal(err)
			}
		}
		e.advance(11)
		s.Sweep(ctx, []string{"r"}, Terms{})
		other.Sweep(ctx, []string{"r"}, Terms{})
		now = demand("sockets gone", now, map[string]presence.Reason{id("Cid"): presence.ReasonClosed, id("Eve"): presence.ReasonClosed}, "3 2 0 0")

		if err := s.Release(ctx, "r", "c6", "gen1"); err != nil {
			t.Fatal(err)
		}
		e.advance(20)
		s.Sweep(ctx, []string{"r"}, Terms{})
		now = demand("all at once", now, map[string]presence.Reason{
			id("Dan"): presence.ReasonTimeout, id("Gil"): presence.ReasonTimeout, id("stays"): presence.ReasonTimeout, id("Fay"): presence.ReasonClosed,
		}, "3 3 3 0")
		if now.Users != 0 || leaves(t, elsewhere) != "0 0 0 0" {
			t.Errorf("%d are left; the other store counted %s", now.Users, leaves(t, elsewhere))
		}
	})
}

// The reason in the log for users whom a backend removes.
func TestReasonRemoved(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		join(t, s, "r", conn("c2", "gen1", "Ben"))
		now := read(t, s, "r")
		c := s.pairsCall(leaveScript, "r", []presence.Connection{{ID: "c1"}}, string(presence.ReasonRemoved))
		if s.run(t.Context(), c); c.err != nil {
			t.Fatal(c.err)
		}
		if got := reasons(t, s, now); fmt.Sprint(got) != fmt.Sprint(map[string]presence.Reason{user("Ann").ID: presence.ReasonRemoved}) {
			t.Errorf("left %v", got)
		}
		check(t, s, "r", 1, "Ben")
	})
}

// A killed replica's members leave, because nobody renews their leases. In a room of up
// to 256 users the log names all who leave at once. In a larger room it names those of a
// sweep, and not more.
func TestMassLeaveInTheLog(t *testing.T) {
	for _, size := range []int{250, 2000} {
		each(t, func(t *testing.T, e *env) {
			const killed = SweepSize
			s := e.store(t, Options{})
			var stay []Holder
			var all []Lost
			for i := range size {
				c := conn(fmt.Sprintf("c%04d", i), "gen1", fmt.Sprintf("user %04d", i))
				all = append(all, Lost{Connection: c})
				if i >= killed {
					stay = append(stay, Holder{c.ID, c.Generation})
				}
			}
			for _, err := range func() []error { _, errs := s.Restore(t.Context(), "r", all); return errs }() {
				if err != nil {
					t.Fatal(err)
				}
			}
			e.advance(20)
			for len(stay) > 0 {
				part := stay[:min(len(stay), BatchSize)]
				stay = stay[len(part):]
				beats := &Beats{Room: "r", Holders: part}
				if s.Heartbeat(t.Context(), []*Beats{beats}); beats.Err != nil || len(beats.Lost) > 0 {
					t.Fatal(beats.Err, beats.Lost)
				}
			}
			before := read(t, s, "r")
			e.advance(11)
			swept := s.Sweep(t.Context(), []string{"r"}, Terms{})[0]
			if swept.Err != nil || swept.RemovedUsers != killed || swept.Users != size-killed {
				t.Fatalf("swept %+v", swept)
			}
			readings, err := s.Read(t.Context(), Have{Room: "r", Version: before.Version, Birth: before.Birth})
			if err != nil {
				t.Fatal(err)
			}
			if readings[0].Whole || len(readings[0].Changes) != 1 {
				t.Fatalf("a room of %d: %+v", size, readings[0])
			}
			named := map[string]bool{}
			for _, l := range readings[0].Changes[0].Left {
				if named[l.User] = true; l.Reason != presence.ReasonTimeout {
					t.Errorf("%s left by %s", l.User, l.Reason)
				}
			}
			after, ok := before.Apply(readings[0].Changes[0])
			if len(named) != killed {
				t.Errorf("a room of %d: %d are named", size, len(named))
			}
			if size <= presence.ListSize && (!ok || !same(after, read(t, s, "r"))) {
				t.Errorf("it can be applied: %v", ok)
			}
		})
	}
}

// In a large room the log names up to 64 users, too.
func TestLargeRoomNamesSome(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		var all []Lost
		for i := range 300 {
			all = append(all, Lost{Connection: conn(fmt.Sprintf("c%03d", i), "gen1", fmt.Sprintf("user %03d", i))})
		}
		s.Restore(t.Context(), "r", all)
		for _, n := range []int{64, 65} {
			before := read(t, s, "r")
			var back []Lost
			for i := range n {
				back = append(back, Lost{Connection: conn(fmt.Sprintf("more%d-%d", n, i), "gen1", fmt.Sprintf("more %d %d", n, i))})
			}
			s.Restore(t.Context(), "r", back)
			readings, err := s.Read(t.Context(), Have{Room: "r", Version: before.Version, Birth: before.Birth})
			if err != nil || readings[0].Whole != (n > 64) {
				t.Fatalf("%d: whole %v, %v", n, readings[0].Whole, err)
			}
			if n == 64 && len(readings[0].Changes[0].Joined) != n {
				t.Errorf("%d are named", len(readings[0].Changes[0].Joined))
			}
		}
	})
}
