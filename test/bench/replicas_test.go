package bench

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"presence/client"
	"presence/internal/redistest"
	"presence/internal/store"
	"presence/test/harness"
)

// What is measured of replicas.
var (
	killGone    = figure{"from the kill until the last member is announced as gone", "s"}
	killTold    = figure{"members announced as gone", "%"}
	idleReplica = figure{"processor of a replica", "% of a core"}
	idleRedis   = figure{"processor of Redis", "% of a core"}
	idleSweeps  = figure{"sweeps of all replicas", "/s"}
)

const (
	// killed is how many replicas are, and crew how many members each has.
	killed = 20
	crew   = 25

	memberTTL = store.DefaultMemberTTL

	oneReplica    = "1 replica"
	threeReplicas = "3 replicas"
)

// kills kills replicas one after the other, each of which has the streams of a room of its
// own, whose members they join. Streams of a replica that lives on are told who has gone.
func kills(m *measure) {
	m.atUnit = "kills"
	n := killed
	if m.quick {
		n = 3
	}
	redis := redistest.Start(m.t)
	key, flags := harness.Key(m.t)
	flags = append(flags, "-redis-url", redis.URL())
	c := server{harness.Start(m.t, flags...), key}.client(m.t)
	rooms := make([]*doomed, n)
	for i := range rooms {
		d := &doomed{replica: harness.Start(m.t, flags...)}
		d.begin(m.t, c, fmt.Sprint("room", i), key)
		rooms[i] = d
	}
	for _, d := range rooms {
		d.kill()
		time.Sleep(time.Second)
	}
	for i, d := range rooms {
		m.turn(ours, i, killed, func(*testing.T) map[figure]float64 {
			gone, took := d.wait(2 * memberTTL)
			return map[figure]float64{killGone: took.Seconds(), killTold: 100 * float64(gone) / crew}
		})
	}
}

// doomed is a replica that is to be killed.
type doomed struct {
	replica *harness.Replica
	killed  time.Time

	mu   sync.Mutex // guards:
	gone map[string]bool
	last time.Time     // when the last of them was announced
	all  chan struct{} // closed when all were
}

// begin has members join by the replica's streams, and another's client watch them.
func (d *doomed) begin(t *testing.T, c *client.Client, room, key string) {
	t.Helper()
	d.gone, d.all = map[string]bool{}, make(chan struct{})
	newCrowd(t, d.replica.Addr, "/v1/rooms/"+room+"/events?join=c{}&user=u{}", key).more(crew)
	ctx, cancel := context.WithCancel(t.Context())
	begun, seen := make(chan struct{}), false
	var watching sync.WaitGroup
	watching.Go(func() {
		var view client.View
		for e, err := range c.Watch(ctx, room, client.WatchOptions{}) {
			if err != nil {
				return
			}
			if view.Apply(e); len(view.Members) == crew && !seen {
				close(begun)
				seen = true
			}
			d.take(e)
		}
	})
	t.Cleanup(watching.Wait)
	t.Cleanup(cancel)
	select {
	case <-begun:
	case <-time.After(10 * time.Second):
		t.Fatal("the members did not come")
	}
}

// take notes who was announced as gone since nobody renewed them.
func (d *doomed) take(e client.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range e.Leaves {
		if l.Reason == client.ReasonTimeout && !d.killed.IsZero() {
			d.gone[l.User], d.last = true, time.Now()
		}
	}
	if len(d.gone) == crew {
		select {
		case <-d.all:
		default:
			close(d.all)
		}
	}
}

func (d *doomed) kill() {
	d.mu.Lock()
	d.killed = time.Now()
	d.mu.Unlock()
	d.replica.Kill()
}

// wait waits until all are gone, or for so long after the kill.
func (d *doomed) wait(most time.Duration) (gone int, took time.Duration) {
	select {
	case <-d.all:
	case <-time.After(time.Until(d.killed.Add(most))):
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if took = most; len(d.gone) == crew {
		took = d.last.Sub(d.killed)
	}
	return len(d.gone), took
}

// idleRooms has rooms of one member each, whose lease is long, and in which nothing
// happens. All settings are measured at the same time, each with a Redis of its own: what
// they take is processor time of their own processes, and they wait most of the time.
func idleRooms(m *measure) {
	m.atUnit = "rooms"
	const window = 30 * time.Second // each room is swept once in that
	type setting struct {
		of       string
		rooms    int
		replicas []server
		redis    *world
	}
	var settings []*setting
	for _, rooms := range []int{1000, 10_000} {
		for of, n := range map[string]int{oneReplica: 1, threeReplicas: 3} {
			replicas, redis := startReplicas(m.t, n)
			s := &setting{of, rooms, replicas, &world{t: m.t, rdb: redis.Client(m.t)}}
			settings = append(settings, s)
			c := replicas[0].client(m.t)
			harness.InParallel(rooms, func(i int) {
				if _, err := c.Put(m.t.Context(), fmt.Sprint("room", i), "c", client.Presence{User: "u", TTL: 5 * time.Minute}); err != nil {
					m.t.Error(err)
				}
			})
		}
	}
	rounds := m.rounds
	time.Sleep(2 * time.Second) // what follows the joins
	for round := range rounds {
		before := make([]map[figure]float64, len(settings))
		read := func(s *setting) map[figure]float64 {
			values := map[figure]float64{idleRedis: s.redis.cpu() / 1e6}
			for _, r := range s.replicas {
				values[idleReplica] += r.Metric("process_cpu_seconds_total") / float64(len(s.replicas))
				values[idleSweeps] += r.Metric(`presence_redis_call_duration_seconds_count{script="sweep"}`)
			}
			return values
		}
		for i, s := range settings {
			before[i] = read(s)
		}
		began := time.Now()
		time.Sleep(window)
		seconds := time.Since(began).Seconds()
		for i, s := range settings {
			m.turn(s.of, round, float64(s.rooms), func(*testing.T) map[figure]float64 {
				now := read(s)
				return map[figure]float64{
					idleReplica: 100 * (now[idleReplica] - before[i][idleReplica]) / seconds,
					idleRedis:   100 * (now[idleRedis] - before[i][idleRedis]) / seconds,
					idleSweeps:  (now[idleSweeps] - before[i][idleSweeps]) / seconds,
				}
			})
		}
	}
}
