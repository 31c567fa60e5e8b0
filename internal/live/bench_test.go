package live_test

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"presence/internal/controller"
	"presence/internal/presence"
	"presence/internal/room"
)

// receiver is a browser that only counts frames.
type receiver struct{ frames atomic.Int64 }

func (r *receiver) Send(_ []byte, sent func()) error {
	if sent != nil {
		sent()
	}
	r.frames.Add(1)
	return nil
}

// BenchmarkChange measures what one change of a room costs for each page that shows it,
// up to the queue of its socket: with one rendering for all pages, and with one for each,
// as livetemplate itself renders. times-less compares the two.
func BenchmarkChange(b *testing.B) {
	for _, names := range []int{5, 100} {
		views := make([]room.View, 2)
		for i := range views {
			users := names + i
			views[i] = room.View{AsOf: time.Now()}
			views[i].Occupancy = presence.Occupancy{Users: users, Connections: users, Version: 1}
			for n := range users {
				user := presence.User{ID: fmt.Sprintf("id%020d", n), Name: fmt.Sprint("Ann ", n)}
				views[i].Members = append(views[i].Members, presence.Member{User: user, Connections: 1})
			}
		}
		tmpl := template(b)
		const pages = 1000
		perPage := func(b *testing.B, pages int) float64 {
			b.Helper()
			each := float64(b.Elapsed().Nanoseconds()) / float64(b.N) / float64(pages)
			b.ReportMetric(each, "ns/page")
			b.ReportMetric(0, "ns/op")
			return each
		}
		var alone float64
		b.Run(fmt.Sprintf("%d names/a rendering for each page", names), func(b *testing.B) {
			page, err := tmpl.Clone()
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			for b.Loop() {
				var out bytes.Buffer
				state := whole(views[n%2], presence.User{}, controller.PresenceState{Room: "lobby"})
				n++
				if err := page.ExecuteUpdates(&out, state); err != nil {
					b.Fatal(err)
				}
			}
			alone = perPage(b, 1)
		})
		b.Run(fmt.Sprintf("%d names/one rendering for %d pages", names, pages), func(b *testing.B) {
			lobby := newRoom(b, tmpl)
			all := &receiver{}
			for range pages {
				page := lobby.Open(all)
				if err := page.Receive([]byte(`{"tree":{},"meta":{}}`)); err != nil {
					b.Fatal(err)
				}
			}
			n := 0
			for b.Loop() {
				view := views[n%2]
				n++
				view.Sequence = lobby.View.Sequence + 1
				lobby.View = view
				lobby.Show()
			}
			if all.frames.Load() < int64(n*pages) {
				b.Fatalf("%d frames for %d changes", all.frames.Load(), n)
			}
			if together := perPage(b, pages); alone > 0 {
				b.ReportMetric(alone/together, "times-less")
			}
		})
	}
}
