package system

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"presence/test/harness"
)

// Any key of a room is deleted or gets a wrong type. No page, stream or answer shows a
// wrong number without a mark, and a heartbeat interval and a second later all numbers
// are right again.
func TestDamagedRoomsAreRepaired(t *testing.T) {
	t.Parallel()
	redis, url := startRedis(t)
	replicas, key := startAPI(t, 2, steady, url)
	programs := []*harness.Program{harness.NewProgram(t, replicas[0].URL, key), harness.NewProgram(t, replicas[1].URL, key)}
	damages := map[string]func(key string){
		"gone":  func(key string) { redis.Do("del", key) },
		"wrong": func(key string) { redis.Do("del", key); redis.Do("lpush", key, "x") },
	}
	var districts []*district
	end := make(chan struct{})
	var asking sync.WaitGroup
	defer asking.Wait()
	defer close(end)
	for how := range damages {
		for _, name := range []string{"online", "beats", "conns", "refs", "users", "roster", "version", "log"} {
			d := &district{room: name + "-" + how, asked: &answers{}, home: &household{replicas: replicas}}
			opts := harness.Options{Room: "/rooms/" + d.room, Browser: harness.NewBrowser()}
			ann := harness.Open(t, opts, replicas[0].URL).MustJoin("Ann")
			twice := harness.Open(t, opts, replicas[1].URL).MustJoin("Ann")
			opts.Browser = nil
			ben := harness.Open(t, opts, replicas[1].URL).MustJoin("Ben")
			d.home.members = []*harness.Visitor{ann, ben}
			d.home.all = []*harness.Visitor{ann, twice, ben, harness.Open(t, opts, replicas[0].URL)}
			d.streams = []*harness.Follower{harness.Follow(t, key, d.room, "", nil, replicas[0].URL)}
			districts = append(districts, d)
		}
	}
	for _, d := range districts {
		d.settles(t, 5*time.Second)
	}
	rooms := make([]string, len(districts))
	for i, d := range districts {
		rooms[i] = d.room
	}
	asked := &answers{}
	asking.Go(func() { asked.ask(end, programs, rooms...) })
	from := time.Now()
	for _, d := range districts {
		name, how, _ := strings.Cut(d.room, "-")
		damages[how](fmt.Sprintf("presence:{%s}:%s", d.room, name))
	}
	damaged := time.Now()
	harness.Observe(t, steady.heartbeat, "the damage is found")
	for _, d := range districts {
		d.settles(t, max(0, time.Second+slack-time.Since(damaged.Add(steady.heartbeat))))
	}
	harness.Observe(t, time.Second, "who was forgotten would be missed")
	for _, d := range districts {
		d.asked = asked
		d.right(t, from)
	}
	if n := replicas[0].Metric("presence_drift_repaired_total") + replicas[1].Metric("presence_drift_repaired_total"); n < 10 {
		t.Errorf("%v rooms were repaired", n)
	}
}
