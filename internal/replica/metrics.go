package replica

import "github.com/prometheus/client_golang/prometheus"

// metrics are what an operator sees of a replica.
type metrics struct {
	swept    prometheus.Counter
	restored prometheus.Counter
	lost     prometheus.Counter
	repaired prometheus.Counter
	braked   prometheus.Counter
	steps    prometheus.Counter
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
		swept:    counter("presence_swept_connections_total", "Connections that this replica removed because their leases had run out."),
		restored: counter("presence_restored_members_total", "Local members that Redis had lost and this replica put back."),
		lost:     counter("presence_lost_rooms_total", "Rooms whose data Redis was found to have lost, each by itself."),
	}
	m.repaired = counter("presence_drift_repaired_total", "Rooms whose data in Redis were damaged and that this replica had begin anew.")
	m.braked = counter("presence_sweeps_braked_total", "Sweeps that waited for a heartbeat interval, since they would have ended more than half of a room after Redis or this process had been away for longer than the member TTL.")
	m.steps = counter("presence_clock_steps_total", "Times at which the clock of Redis was stepped.")
	if reg != nil {
		reg.MustRegister(m.swept, m.restored, m.lost, m.repaired, m.braked, m.steps,
			gauge("presence_local_members", "Tabs that are joined through this replica; each counts once, however often it joined.", func() float64 { return float64(r.members.count()) }),
			up{r.links})
	}
	return m
}

// up is a gauge for each node of Redis: 1 while the node answers.
type up struct{ links *links }

//nolint:gochecknoglobals // a constant
var upDesc = prometheus.NewDesc("presence_redis_up", "1 while the node of Redis answers.", []string{"node"}, nil)

// Describe describes the gauge.
func (u up) Describe(ch chan<- *prometheus.Desc) { ch <- upDesc }

// Collect reports the nodes that are known now.
func (u up) Collect(ch chan<- prometheus.Metric) {
	for _, l := range u.links.all() {
		value := 1.0
		if l.ready() != nil {
			value = 0
		}
		ch <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, value, l.at().Addr)
	}
}
