package replica

import "github.com/prometheus/client_golang/prometheus"

// metrics are what an operator sees of a replica.
type metrics struct {
	swept     prometheus.Counter
	restored  prometheus.Counter
	pushes    prometheus.Counter
	reminders prometheus.Counter
	shown     prometheus.Histogram
}

// newMetrics registers with reg, or nowhere if reg is nil.
func newMetrics(reg prometheus.Registerer, r *Replica) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	m := &metrics{
		swept:     counter("presence_swept_connections_total", "Connections that this replica removed because their leases had run out."),
		restored:  counter("presence_restored_members_total", "Local members that Redis had lost and this replica put back."),
		pushes:    counter("presence_pushes_total", "Times that the viewers of a room were told of something new."),
		reminders: counter("presence_reminders_total", "Times that viewers of a room were told again because one had not looked."),
		shown: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "presence_change_shown_seconds",
			Help: "Time from when this replica heard that a room had changed, by a join or otherwise, until 19 of 20 of its pages here had been sent what is new; the window of -coalesce is part of it. " +
				"Changes whose message was lost are not in it: they are found when rooms are read again.",
			Buckets: []float64{.005, .01, .025, .05, .1, .15, .2, .3, .5, 1, 2.5, 5, 10},
		}),
	}
	if reg != nil {
		reg.MustRegister(m.swept, m.restored, m.pushes, m.reminders, m.shown,
			gauge("presence_local_members", "Tabs that are joined through this replica; each counts once, however often it joined.", func() float64 { return float64(r.members.count()) }),
			gauge("presence_watched_rooms", "Rooms that somebody at this replica looks at.", func() float64 { n, _ := r.rooms.count(); return float64(n) }),
			gauge("presence_viewers", "Visitors with a live page at this replica.", func() float64 { _, n := r.rooms.count(); return float64(n) }),
			gauge("presence_redis_up", "1 while Redis answers.", func() float64 {
				if r.Ready() != nil {
					return 0
				}
				return 1
			}))
	}
	return m
}
