package stream

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/store"
)

// numbers returns the numbers of the lobby in Redis.
func (p *process) numbers() (users, connections int) {
	p.t.Helper()
	readings, err := p.store.Read(p.t.Context(), store.Have{Room: lobby, Numbers: true})
	if err != nil {
		p.t.Fatal(err)
	}
	return readings[0].Users, readings[0].Connections
}

// two starts two replicas over one Redis.
func two(t *testing.T) (p, other *process) {
	fake := redistest.NewFake(t)
	return start(t, fake), start(t, fake)
}

func (p *process) expectNumbers(users, connections int) {
	p.t.Helper()
	if u, c := p.numbers(); u != users || c != connections {
		p.t.Errorf("%d users by %d connections, want %d by %d", u, c, users, connections)
	}
}

func TestAStreamIsPresence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := two(t)
		eyes := other.watch("rooms=lobby")
		eyes.expect("snapshot 0 []")
		c := p.watch("rooms=lobby&join=c1&user=ann")
		c.expect("snapshot 1 [ann]")
		time.Sleep(3 * time.Minute) // it is renewed
		eyes.expect("diff 1 +[ann] ~[] -[]")
		p.expectNumbers(1, 1)
		c.close()
		time.Sleep(5 * time.Second) // and is back within the grace
		again := other.watch("rooms=lobby&join=c1&user=ann")
		again.expect("snapshot 1 [ann]")
		time.Sleep(time.Minute)
		eyes.expect()
		again.close()
		time.Sleep(store.DefaultLeaveGrace + 2*time.Second)
		eyes.expect("diff 0 +[] ~[] -[ann closed]")
		p.expectNumbers(0, 0)
	})
}

// Nobody stays longer than their token lasts, and a user with another token does not
// leave.
func TestAStreamsUserLeavesWithTheirToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := two(t)
		eyes := other.watch("rooms=lobby")
		eyes.expect("snapshot 0 []")
		c := p.watch("rooms=lobby&join=c1&user=ann&ttl=20s")
		time.Sleep(19 * time.Second)
		eyes.expect("diff 1 +[ann] ~[] -[]")
		time.Sleep(2 * time.Second)
		c.expect("snapshot 1 [ann]", "diff 0 +[] ~[] -[ann timeout]", "end token_expired never")
		eyes.expect("diff 0 +[] ~[] -[ann timeout]")

		first := p.watch("rooms=lobby&join=c1&user=ann&ttl=20s")
		time.Sleep(15 * time.Second)
		second := p.watch("rooms=lobby&join=c1&user=ann&ttl=40s")
		time.Sleep(20 * time.Second)
		first.expect("snapshot 1 [ann]", "end replaced never")
		eyes.expect("diff 1 +[ann] ~[] -[]")
		time.Sleep(15 * time.Second)
		second.close()
		time.Sleep(6 * time.Second) // less than the grace
		eyes.expect("diff 0 +[] ~[] -[ann closed]")
	})
}

func TestAStreamThatIsPresenceSeesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, redistest.NewFake(t))
		p.join("ann")
		p.watch("rooms=lobby").expect("snapshot 1 [ann]")
		p.join("ben") // so that the next view has to wait
		synctest.Wait()
		c := p.watch("rooms=lobby&join=c1&user=cem&name=Cem")
		window()
		c.expect("snapshot 3 [ann,ben,Cem]")
	})
}

func TestAConnectionIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := two(t)
		eyes := other.watch("rooms=lobby")
		first := p.watch("rooms=lobby&join=c1&user=ann")
		second := p.watch("rooms=lobby&join=c1&user=ann")
		first.expect("snapshot 1 [ann]", "end replaced never")
		third := other.watch("rooms=lobby&join=c1&user=ann")
		window() // in which the other replica has not read the room again
		third.expect("snapshot 1 [ann]")
		time.Sleep(12 * time.Second) // the heartbeat finds it
		second.expect("snapshot 1 [ann]", "end replaced never")
		time.Sleep(time.Minute)
		eyes.expect("snapshot 0 []", "diff 1 +[ann] ~[] -[]")
		third.expect()
		p.expectNumbers(1, 1)
	})
}

func TestAJoinedStreamIsEndedByOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := two(t)
		alone := p.watch("rooms=lobby&join=c1&user=ann")
		one, two := p.watch("rooms=lobby&join=c2&user=ben"), other.watch("rooms=lobby&join=c3&user=ben")
		time.Sleep(time.Second)
		alone.take()
		one.take()
		two.take()
		leave := func(id string) {
			if _, err := other.replica.End(t.Context(), lobby, id); err != nil {
				t.Fatal(err)
			}
		}
		leave("c1")
		window()
		alone.expect("diff 1 +[] ~[] -[ann left]", "end left never")
		leave("c2")
		window()
		one.expect("diff 1 +[] ~[] -[ann left]", "diff 1 +[] ~[ben] -[]", "end left never")
		time.Sleep(time.Minute)
		two.expect("diff 1 +[] ~[] -[ann left]", "diff 1 +[] ~[ben] -[]")
		p.expectNumbers(1, 1)
	})
}

func TestAJoinedStreamRotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, redistest.NewFake(t))
		c := p.watch("rooms=lobby&join=c1&user=ann")
		time.Sleep(rotation - rotationJitter - time.Second)
		c.expect("snapshot 1 [ann]")
		time.Sleep(rotationJitter + 2*time.Second)
		c.expect("end rotated now")
	})
}

func TestAStreamJoinsWhenRedisIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		p := start(t, fake)
		fake.Down()
		time.Sleep(time.Minute)
		c := p.watch("rooms=lobby&join=c1&user=ann")
		short := p.watch("rooms=lobby&join=c2&user=ben")
		c.expect("stale 0")
		short.close()
		time.Sleep(750 * time.Millisecond) // so that the room is read before the second in which the join is tried
		fake.Up()
		time.Sleep(time.Minute)
		c.expect("snapshot 0 []", "diff 1 +[ann] ~[] -[]")
		p.expectNumbers(1, 1)
	})
}

func TestRedisLosesItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		p, other := start(t, fake), start(t, fake)
		eyes := other.watch("rooms=lobby")
		c := p.watch("rooms=lobby&join=c1&user=ann")
		time.Sleep(time.Minute)
		eyes.expect("snapshot 0 []", "diff 1 +[ann] ~[] -[]")
		fake.FlushAll()
		time.Sleep(time.Minute)
		eyes.expect("stale", "snapshot 1 [ann]")
		c.expect("snapshot 1 [ann]", "stale", "snapshot 1 [ann]")
		p.expectNumbers(1, 1)
	})
}

// A replica is cut off for longer than leases last, and another one ends them. A stream here
// that is still open then shows its own user in the first fresh snapshot.
func TestAStreamIsBackBeforeItsRoomIsShownAfterACut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, other := two(t)
		eyes := other.watch("rooms=lobby")
		c := p.watch("rooms=lobby&join=c1&user=ann")
		time.Sleep(time.Minute)
		p.link.Cut()
		time.Sleep(2 * store.DefaultMemberTTL)
		p.link.Mend()
		time.Sleep(time.Minute)
		c.expect("snapshot 1 [ann]", "stale", "snapshot 1 [ann]")
		eyes.expect("snapshot 0 []", "diff 1 +[ann] ~[] -[]", "diff 0 +[] ~[] -[ann timeout]", "diff 1 +[ann] ~[] -[]")
		p.expectNumbers(1, 1)
	})
}

func TestFullRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		p := startOn(t, fake, store.Options{MaxMembers: 1}, 0)
		time.Sleep(time.Minute)
		c := p.watch("rooms=lobby&join=c1&user=ann")
		if _, status := p.tryWatch("rooms=lobby&join=c2&user=ben"); status != http.StatusConflict {
			t.Errorf("status %d", status)
		}
		c.expect("snapshot 1 [ann]")
		// Somebody takes its place while Redis has lost everything.
		time.Sleep(time.Millisecond) // for another birth of the room
		fake.FlushAll()
		if _, err := p.store.Put(t.Context(), lobby, store.Wanted{
			Connection: presence.Connection{ID: "c3", Generation: presence.NewHTTPGeneration(), User: presence.User{ID: "cem", Name: "cem"}},
			TTL:        time.Hour,
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		c.expect("stale", "end room_full never")
	})
}
