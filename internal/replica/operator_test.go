package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"presence/internal/presence"
	"presence/internal/redistest"
	"presence/internal/room"
	"presence/internal/store"
)

// journal collects the log of replicas.
type journal struct {
	mu   sync.Mutex // guards:
	text bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(b)
}

// lines returns "message: why" for each log line since the last call.
func (j *journal) lines(t *testing.T) []string {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	var list []string
	for line := range strings.Lines(j.text.String()) {
		var entry struct{ Msg, Why string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Why != "" {
			entry.Msg += ": " + entry.Why
		}
		list = append(list, entry.Msg)
	}
	j.text.Reset()
	return list
}

// startLogged starts a replica with a viewer.
func startLogged(t *testing.T, link *redistest.Link) (*Replica, *journal) {
	t.Helper()
	j := &journal{}
	st := store.New(link.Client, store.Options{})
	r := New(st, Options{Logger: slog.New(slog.NewJSONHandler(j, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = st.Run(ctx) })
	rooms := room.New(st, r, room.Options{Logger: slog.New(slog.NewJSONHandler(j, nil))})
	r.Tell(rooms)
	wg.Go(func() { _ = r.Run(ctx) })
	wg.Go(func() { _ = rooms.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	enter, stop := context.WithTimeout(t.Context(), time.Second)
	defer stop()
	rooms.Enter(enter, lobby, &process{})
	synctest.Wait()
	return r, j
}

// demandLines fails unless exactly these lines were logged, in any order.
func demandLines(t *testing.T, j *journal, want map[string]int) {
	t.Helper()
	got := map[string]int{}
	lines := j.lines(t)
	for _, line := range lines {
		got[line]++
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("logged %q, want %v", lines, want)
	}
}

func TestOutageIsALineAMinute(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		link := fake.Link(t)
		_, j := startLogged(t, link)
		time.Sleep(10 * time.Second)
		demandLines(t, j, map[string]int{"redis answers: first answer": 1})
		link.Cut()
		time.Sleep(150 * time.Second)
		demandLines(t, j, map[string]int{"redis is away": 3, "subscription lost": 3})
		link.Mend()
		time.Sleep(10 * time.Second)
		demandLines(t, j, map[string]int{"redis regained: Redis answers again": 1, "subscription regained": 1})
		link.Cut()
		fake.FlushAll()
		time.Sleep(2 * time.Minute)
		j.lines(t)
		link.Mend()
		time.Sleep(10 * time.Second)
		demandLines(t, j, map[string]int{"redis regained: Redis answers again, without its data": 1, "subscription regained": 1})
		fake.FlushAll()
		time.Sleep(10 * time.Second)
		demandLines(t, j, map[string]int{"redis regained: Redis lost its data": 1})
	})
}

func TestFirstContactIsNoRegain(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		link := fake.Link(t)
		link.Cut()
		_, j := startLogged(t, link)
		time.Sleep(90 * time.Second)
		demandLines(t, j, map[string]int{"redis is away": 2, "subscription lost": 2})
		link.Mend()
		time.Sleep(10 * time.Second)
		demandLines(t, j, map[string]int{"redis answers: first answer": 1, "subscription regained": 1})
	})
}

// TestOutageThatComesAndGoes is about the log when Redis refuses writes but answers
// probes in between.
func TestOutageThatComesAndGoes(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		link := fake.Link(t)
		r, j := startLogged(t, link)
		time.Sleep(10 * time.Second)
		j.lines(t)
		refused := fmt.Errorf("%w: %w", presence.ErrUnavailable, errors.New("OOM command not allowed"))
		for range 90 {
			r.redisFailed(t.Context(), r.links.only, refused)
			r.redisFailed(t.Context(), r.links.only, refused)
			time.Sleep(time.Second) // a probe
		}
		demandLines(t, j, map[string]int{"redis is away": 2, "redis regained: Redis answers again": 2})
	})
}

// TestTimeUntilAChangeIsShown measures from the message of a join until the crowd has
// been sent it. The window after the last push is included.
func TestTimeUntilAChangeIsShown(t *testing.T) {
	bubble(t, func(t *testing.T, fake *redistest.Fake) {
		a, b := start(t, fake), start(t, fake).watching()
		demand := func(n uint64, least, most float64) {
			t.Helper()
			families, err := b.registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			var h *dto.Histogram
			for _, family := range families {
				if family.GetName() == "presence_change_shown_seconds" {
					h = family.Metric[0].GetHistogram()
				}
			}
			if sum := h.GetSampleSum(); h.GetSampleCount() != n || sum < least || sum > most {
				t.Fatalf("%d changes took %v s, want %d in %v to %v s", h.GetSampleCount(), sum, n, least, most)
			}
		}
		time.Sleep(10 * time.Second) // resyncs and the first view do not count as changes
		demand(0, 0, 0)
		b.take(300 * time.Millisecond)
		a.join("Ann")
		time.Sleep(5 * time.Second)
		demand(1, 0.3, 0.301)
		a.join("Ben")
		time.Sleep(50 * time.Millisecond) // while the audience is still being shown Ben
		b.take(0)
		a.join("Cid")
		time.Sleep(10 * time.Second)
		demand(3, 0.65, 10) // 0.3, 0.3, and the time that Cid had to wait
	})
}
