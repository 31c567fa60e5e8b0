package drill

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"presence/client"
)

// stage is a room without pages, since a stream reports each user only in rooms of up to
// 256.
const stage = "stage"

// apiClient returns a client of the API at an address.
func apiClient(t *testing.T, url, key string) *client.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := client.New(url, client.Options{Key: key, HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// follower follows the stage by a stream.
type follower struct {
	where string
	there chan struct{} // closed when all have come

	mu     sync.Mutex // guards:
	room   client.View
	leaves map[string][]client.Reason // of each user
	last   time.Time                  // when the last left
}

// startFollower follows the stage at an address until the test ends.
func startFollower(t *testing.T, where, url, key string) *follower {
	t.Helper()
	f := &follower{where: where, there: make(chan struct{}), leaves: map[string][]client.Reason{}}
	c := apiClient(t, url, key)
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() {
		for event, err := range c.Watch(ctx, stage, client.WatchOptions{}) {
			if err != nil {
				if ctx.Err() == nil {
					t.Errorf("the stream at %s: %v", where, err)
				}
				return
			}
			f.take(event)
		}
	})
	t.Cleanup(func() {
		cancel()
		following.Wait()
	})
	return f
}

func (f *follower) take(event client.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room.Apply(event)
	for _, left := range event.Leaves {
		f.leaves[left.User] = append(f.leaves[left.User], left.Reason)
		f.last = time.Now()
	}
	if f.room.Users == lost {
		select {
		case <-f.there:
		default:
			close(f.there)
		}
	}
}

// startStreams makes users present on the stage by streams of one replica, as many as
// will be lost with it. They end with the test.
func startStreams(t *testing.T, url, key string) {
	t.Helper()
	c := apiClient(t, url, key)
	ctx, cancel := context.WithCancel(context.Background())
	var present sync.WaitGroup
	for i := range lost {
		present.Go(func() {
			id := fmt.Sprint("lost-", i+1)
			for _, err := range c.Watch(ctx, stage, client.WatchOptions{Join: id, User: id}) {
				if err != nil && ctx.Err() == nil {
					t.Errorf("the stream of %s: %v", id, err)
				}
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		present.Wait()
	})
}

// seen waits until a follower sees everybody on the stage.
func (f *follower) seen(t *testing.T) {
	t.Helper()
	select {
	case <-f.there:
	case <-time.After(10 * time.Second):
		t.Fatalf("not all are seen on the stage at %s", f.where)
	}
}

// check adds what a follower was told to the report.
func (f *follower) check(r *report, killed time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	once := 0
	for _, reasons := range f.leaves {
		if len(reasons) == 1 && reasons[0] == client.ReasonTimeout {
			once++
		}
	}
	r.check("leaves that a stream told once, as timeouts, "+f.where, fmt.Sprint(once), fmt.Sprint(lost), once == lost && len(f.leaves) == lost)
	r.check("  users in its view", fmt.Sprint(f.room.Users, " and ", len(f.room.Members), " listed"), "none", f.room.Known && f.room.Users == 0 && len(f.room.Members) == 0)
	took := f.last.Sub(killed)
	r.check("  the last of them after", fmt.Sprintf("%.2f s", took.Seconds()), fmt.Sprintf("TTL + 1 s = %v", ttl+slack), took > 0 && took <= ttl+slack)
}
