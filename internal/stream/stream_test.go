package stream

import (
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/redistest"
	"presence/internal/replica"
	"presence/internal/store"
)

func TestAStreamTellsARoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, redistest.NewFake(t))
		c := p.watch("rooms=lobby")
		c.expect("snapshot 0 []")
		p.join("ann")
		window()
		c.expect("diff 1 +[ann] ~[] -[]")
		if ms, err := strconv.Atoi(c.retry); err != nil || ms < 1000 || ms > 3000 {
			t.Errorf("retry: %s", c.retry)
		}
		p.join("ben")
		window()
		c.expect("diff 2 +[ben] ~[] -[]")
		p.part("ann")
		p.join("cem")
		window()
		c.expect("diff 2 +[cem] ~[] -[ann left]")
		p.part("cem")
		p.join("cem")
		window()
		c.expect("diff 2 +[] ~[cem] -[]")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := c.comments(); n < 4 {
			t.Errorf("%d keepalives in a minute", n)
		}
		if c.expect(); c.over() {
			t.Error("the stream has ended")
		}
	})
}

func TestAStreamOfARoomThatIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		p := start(t, fake)
		p.join("ann")
		fake.Down()
		time.Sleep(time.Minute)
		c := p.watch("rooms=lobby")
		counts := p.watch("rooms=lobby&count=")
		c.expect("stale 0")
		counts.expect("stale 0")
		fake.Up()
		time.Sleep(time.Minute)
		c.expect("snapshot 1 [ann]")
		counts.expect("count 1")
	})
}

func TestAnOutageIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		p := start(t, fake)
		p.join("ann")
		c, counts := p.watch("rooms=lobby"), p.watch("rooms=lobby&count=")
		c.expect("snapshot 1 [ann]")
		counts.expect("count 1")
		fake.Down()
		time.Sleep(time.Minute)
		c.expect("stale")
		counts.expect("stale")
		late := p.watch("rooms=lobby")
		late.expect("snapshot 1 [ann] stale")
		p.watch("rooms=lobby&after=1900000000000000").expect("stale 0")
		fake.Up()
		time.Sleep(time.Minute)
		c.expect("snapshot 1 [ann]")
		counts.expect("count 1")
		late.expect("snapshot 1 [ann]")
	})
}

func TestStreamsGoOnFromAVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		p, other := start(t, fake), startOn(t, fake, store.Options{}, time.Second)
		time.Sleep(replica.DefaultHeartbeatInterval)
		p.join("ann")
		first := p.watch("rooms=lobby")
		version := func(c *client) string {
			synctest.Wait()
			events := c.take()
			return strconv.FormatInt(events[len(events)-1].Version, 10)
		}
		after := version(first)
		there := other.watch("rooms=lobby&after=" + after)
		there.expect()
		p.join("ben")
		p.part("ann")
		p.join("cem")
		p.part("cem")
		time.Sleep(time.Second)
		there.expect("diff 1 +[ben] ~[] -[ann left]")
		other.watch("rooms=lobby&after=" + after).expect("diff 1 +[ben] ~[] -[ann left]")
		// The other replica has not seen what the client has.
		p.join("ann")
		window()
		p.join("cem")
		window()
		ahead := other.watch("rooms=lobby&after=" + version(first))
		ahead.expect()
		p.join("dan")
		p.part("ben")
		time.Sleep(time.Second)
		ahead.expect("diff 3 +[dan] ~[] -[ben left]")
		there.expect("diff 3 +[ann,cem,dan] ~[] -[ben left]")
		p.join("ben")
		p.part("dan")
		time.Sleep(time.Second)
		ahead.expect("diff 3 +[ben] ~[] -[dan left]")
		if by := other.metric("presence_streams_resumed_total", "changes"); by != 3 {
			t.Errorf("%v streams were resumed by changes", by)
		}
		for _, unknown := range []string{"1", "1900000000000000"} {
			p.watch("rooms=lobby&after=" + unknown).expect("snapshot 3 [ann,cem,ben]")
		}
		if by := p.metric("presence_streams_resumed_total", "snapshot"); by != 2 {
			t.Errorf("%v streams were resumed by a snapshot", by)
		}
		p.watch("rooms=lobby&count=&after=" + after).expect("count 3")
		// Of so many the log may not have all.
		p.joinMany(1, 197)
		window()
		after = version(first)
		p.join("dan")
		window()
		p.watch("rooms=lobby&after=" + after).expect("snapshot 201 of 201, complete true")
		after = version(first)
		p.partMany(1, 100)
		window()
		p.watch("rooms=lobby&after=" + after).expect("snapshot 101 of 101, complete true")
	})
}

func TestLargeRoomsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, redistest.NewFake(t))
		p.joinMany(1, 256)
		c := p.watch("rooms=lobby")
		c.expect("snapshot 256 of 256, complete true")
		p.join("u257")
		window()
		c.expect("mode count", "count 257")
		p.watch("rooms=lobby").expect("snapshot 256 of 257, complete false", "mode count")
		p.join("u258")
		window()
		c.expect("count 258")
		p.partMany(1, 58)
		window()
		c.expect("count 200")
		within := p.watch("rooms=lobby")
		within.expect("snapshot 200 of 200, complete true")
		p.part("u59")
		window()
		c.expect("mode diff", "snapshot 199 of 199, complete true")
		within.expect("diff 199 +[] ~[] -[u59 left]")
		p.part("u60")
		window()
		c.expect("diff 198 +[] ~[] -[u60 left]")
	})
}

func TestSeveralRoomsInOneStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, redistest.NewFake(t))
		p.join("ann")
		c := p.watch("rooms=lobby,kitchen")
		synctest.Wait()
		events := c.take()
		if len(events) != 2 || events[0].Room != lobby || events[1].Room != "kitchen" || events[0].said() != "snapshot 1 [ann]" || events[1].said() != "snapshot 0 []" {
			t.Errorf("got %+v", events)
		}
		p.join("ben")
		window()
		for _, e := range append(events, c.take()...) {
			if e.ID != "" {
				t.Errorf("an event of several rooms has the id %s", e.ID)
			}
		}
	})
}

func TestStreamsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, redistest.NewFake(t))
		token := p.watch("rooms=lobby&ttl=1m")
		time.Sleep(58 * time.Second)
		token.expect("snapshot 0 []")
		time.Sleep(4 * time.Second)
		token.expect("end token_expired never")
		var all []*client
		for range 10 {
			all = append(all, p.watch("rooms=lobby"))
		}
		go func() {
			if err := p.Drain(t.Context(), 10*time.Second); err != nil {
				t.Error(err)
			}
		}()
		for second := range 10 {
			time.Sleep(time.Second)
			synctest.Wait()
			ended := 0
			for _, c := range all {
				if c.over() {
					ended++
				}
			}
			if ended < second || ended > second+2 {
				t.Errorf("after %d s of the drain %d of 10 streams have ended", second+1, ended)
			}
		}
		for _, c := range all {
			c.expect("snapshot 0 []", "end draining now")
		}
		p.watch("rooms=lobby").expect("end draining now")
		if n := p.Len(); n != 0 {
			t.Errorf("%d streams are left", n)
		}
		if rooms, viewers := p.rooms.Counts(); rooms != 0 || viewers != 0 {
			t.Errorf("%d viewers of %d rooms are left", viewers, rooms)
		}
	})
}

// A keepalive that is being sent must not cost a stream an event.
func TestAKeepaliveDelaysAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, redistest.NewFake(t))
		conn := p.raw("rooms=lobby")
		readHead(t, conn)
		time.Sleep(slots * beat) // a keepalive is on its way
		p.join("ann")
		window()
		p.reading(conn).expect("diff 1 +[ann] ~[] -[]")
	})
}

// A peer that does not read gets the whole room when it reads again, after what waited
// for it. If it never reads, it is cut. No other stream waits for it.
func TestSlowReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, redistest.NewFake(t))
		quick := p.watch("rooms=lobby")
		quick.expect("snapshot 0 []")
		conn := p.raw("rooms=lobby")
		gone := p.raw("rooms=lobby")
		readHead(t, conn)
		readHead(t, gone)
		for _, name := range []string{"ann", "ben", "cem"} {
			p.join(name)
			window()
			time.Sleep(time.Second)
		}
		quick.expect("diff 1 +[ann] ~[] -[]", "diff 2 +[ben] ~[] -[]", "diff 3 +[cem] ~[] -[]")
		slow := p.reading(conn)
		slow.expect("diff 1 +[ann] ~[] -[]", "diff 2 +[ben] ~[] -[]", "snapshot 3 [ann,ben,cem]")
		p.join("dan")
		window()
		slow.expect("diff 4 +[dan] ~[] -[]")
		time.Sleep(patience)
		synctest.Wait()
		if n, cut := p.Len(), p.metric("presence_streams_cut_total", ""); n != 2 || cut != 1 {
			t.Errorf("%d streams are open, %v were cut", n, cut)
		}
		quick.expect("diff 4 +[dan] ~[] -[]")
	})
}
