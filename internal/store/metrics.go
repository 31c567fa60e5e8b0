package store

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"presence/internal/presence"
)

// metrics are the metrics of calls, reads and leaves.
type metrics struct {
	seconds *prometheus.HistogramVec
	failed  *prometheus.CounterVec
	batch   *prometheus.HistogramVec
	reads   *prometheus.CounterVec
	leaves  *prometheus.CounterVec
}

// notAScript is the label of a message that no script has published.
const notAScript = "message"

// newMetrics registers with reg, or nowhere if reg is nil. Each label value exists
// from the start, so that a rate over it has a zero to begin from.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "presence_redis_call_duration_seconds",
			Help:    "Time from sending a script call to its reply.",
			Buckets: []float64{.0002, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2},
		}, []string{"script"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "presence_redis_call_errors_total",
			Help: "Script calls that failed.",
		}, []string{"script"}),
		batch: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "presence_redis_batch_connections",
			Help:    "Connections gathered into one script call.",
			Buckets: []float64{1, 2, 5, 10, 25, 50, 100, 250, 500},
		}, []string{"script"}),
	}
	for _, s := range scripts() {
		m.seconds.WithLabelValues(s.name)
		m.failed.WithLabelValues(s.name)
	}
	m.failed.WithLabelValues(notAScript)
	for _, s := range []script{joinScript, leaveScript, resumeScript, releaseScript} {
		m.batch.WithLabelValues(s.name)
	}
	m.reads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "presence_room_reads_total",
		Help: "Rooms that were read, by what answered: nothing new, changes of the log, or the whole room.",
	}, []string{"answer"})
	for _, answer := range []string{"nothing", "changes", "whole"} {
		m.reads.WithLabelValues(answer)
	}
	m.leaves = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "presence_leaves_total",
		Help: "Users who went offline by a change that this replica made, by reason: left, closed, timeout, removed.",
	}, []string{"reason"})
	for _, reason := range []presence.Reason{presence.ReasonLeft, presence.ReasonClosed, presence.ReasonTimeout, presence.ReasonRemoved} {
		m.leaves.WithLabelValues(string(reason))
	}
	if reg != nil {
		reg.MustRegister(m.seconds, m.failed, m.batch, m.reads, m.leaves)
	}
	return m
}

func (m *metrics) called(script string, err error, started time.Time) {
	m.seconds.WithLabelValues(script).Observe(time.Since(started).Seconds())
	if err != nil {
		m.failed.WithLabelValues(script).Inc()
	}
}

func (m *metrics) gathered(script string, n int) {
	m.batch.WithLabelValues(script).Observe(float64(n))
}

// left counts users who went offline.
func (m *metrics) left(reason presence.Reason, users int) {
	m.leaves.WithLabelValues(string(reason)).Add(float64(users))
}

// answered counts a room that was read, by the kind of answer.
func (m *metrics) answered(r Reading) {
	switch {
	case r.Err != nil:
	case r.Whole:
		m.reads.WithLabelValues("whole").Inc()
	case len(r.Changes) > 0:
		m.reads.WithLabelValues("changes").Inc()
	default:
		m.reads.WithLabelValues("nothing").Inc()
	}
}
