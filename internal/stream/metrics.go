package stream

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are the metrics of the streams.
type metrics struct {
	events  [kinds]prometheus.Counter
	changes prometheus.Counter // streams that were resumed by changes
	wholes  prometheus.Counter // streams that were resumed by a snapshot
	cut     prometheus.Counter
	bytes   prometheus.Counter
}

// newMetrics registers with reg, or nowhere if reg is nil.
func newMetrics(reg prometheus.Registerer, open func() float64) *metrics {
	factory := promauto.With(reg)
	factory.NewGaugeFunc(prometheus.GaugeOpts{Name: "presence_streams", Help: "Event streams that are open."}, open)
	events := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "presence_stream_events_total", Help: "Events that streams were sent, by kind.",
	}, []string{"kind"})
	resumed := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "presence_streams_resumed_total", Help: "Streams that went on from a version, by what they were sent of what they had missed.",
	}, []string{"by"})
	m := &metrics{
		changes: resumed.WithLabelValues("changes"), wholes: resumed.WithLabelValues("snapshot"),
		cut: factory.NewCounter(prometheus.CounterOpts{
			Name: "presence_streams_cut_total", Help: "Streams that were cut since their peers took nothing for 30 s.",
		}),
		bytes: factory.NewCounter(prometheus.CounterOpts{
			Name: "presence_stream_bytes_total", Help: "Bytes that the kernel has taken for streams: events, keepalives and the heads of the answers.",
		}),
	}
	for kind := range m.events {
		m.events[kind] = events.WithLabelValues(kindName(kind))
	}
	return m
}

// sent counts the events of messages, given how many streams were sent each message.
func (m *metrics) sent(counts *[messages]int) {
	for of, n := range counts {
		if n > 0 {
			for _, kind := range message(of).events() {
				m.events[kind].Add(float64(n))
			}
		}
	}
}
