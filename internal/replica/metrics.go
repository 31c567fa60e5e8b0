package replica

import "github.com/prometheus/client_golang/prometheus"

// metrics are what an operator sees of a replica.
type metrics struct {
	swept     prometheus.Counter
	restored  prometheus.Counter
	pushes    prometheus.Counter
	reminders prometheus.Counter
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
	}
	if reg != nil {
		reg.MustRegister(m.swept, m.restored, m.pushes, m.reminders,
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
