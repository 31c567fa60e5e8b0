package room

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the metrics of the rooms.
type metrics struct {
	pushes    prometheus.Counter
	reminders prometheus.Counter
	shown     prometheus.Histogram
}

// newMetrics registers with reg, or nowhere if reg is nil.
func newMetrics(reg prometheus.Registerer, rs *Rooms) *metrics {
	m := &metrics{
		pushes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "presence_pushes_total", Help: "Times that the viewers of a room were told of something new.",
		}),
		reminders: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "presence_reminders_total", Help: "Times that viewers of a room were told again because one had not looked.",
		}),
	}
	m.shown = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "presence_change_shown_seconds",
		Help: "Time from when this replica heard that a room had changed, by a join or otherwise, until 19 of 20 of its pages here had been sent what is new; the window of -coalesce is part of it. " +
			"Changes whose message was lost are not in it: they are found when rooms are read again.",
		Buckets: []float64{.005, .01, .025, .05, .1, .15, .2, .3, .5, 1, 2.5, 5, 10},
	})
	if reg != nil {
		reg.MustRegister(m.pushes, m.reminders, m.shown,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "presence_watched_rooms", Help: "Rooms that somebody at this replica looks at.",
			}, func() float64 { n, _ := rs.Counts(); return float64(n) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "presence_viewers", Help: "Live pages at this replica, and rooms that event streams look at, each counted by itself.",
			}, func() float64 { _, n := rs.Counts(); return float64(n) }))
	}
	return m
}

// seen notes that nearly all viewers have now been shown a change that was heard of at
// heard.
func (m *metrics) seen(heard time.Time) {
	if !heard.IsZero() {
		m.shown.Observe(time.Since(heard).Seconds())
	}
}
