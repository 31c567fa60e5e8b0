package controller

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"presence/internal/presence"
	"presence/internal/terse"
)

// actionResume is the action of a page that reconnects: to be in the room again through a
// new socket.
const actionResume = "resume"

// Why an action did not happen, as labels of metrics.
const (
	reasonName         = "name"           // the name can't be used
	reasonRoomFull     = "room_full"      // -max-members-per-room
	reasonTooManyRooms = "too_many_rooms" // -max-rooms
	reasonAddress      = "address"        // -max-rooms-per-ip, -max-members-per-ip
	reasonRedisFull    = "redis_full"     // Redis has no memory left
	reasonDamaged      = "damaged"        // the room's data is not what a server writes
	reasonAccess       = "access"         // the visitor's token does not allow it, or has expired
	reasonUnavailable  = "unavailable"    // Redis did not answer in time
	reasonOther        = "other"
)

// reasonOf returns the label for err.
func reasonOf(err error) string {
	switch {
	case errors.As(err, new(*presence.NameError)):
		return reasonName
	case errors.Is(err, errMayNotJoin), errors.Is(err, errAccessEnded):
		return reasonAccess
	case errors.Is(err, presence.ErrRoomFull):
		return reasonRoomFull
	case errors.Is(err, presence.ErrTooManyRooms):
		return reasonTooManyRooms
	case errors.Is(err, presence.ErrAddressRooms), errors.Is(err, presence.ErrAddressMembers):
		return reasonAddress
	case errors.Is(err, presence.ErrFull):
		return reasonRedisFull
	case errors.Is(err, presence.ErrDamaged):
		return reasonDamaged
	case errors.Is(err, presence.ErrUnavailable):
		return reasonUnavailable
	default:
		return reasonOther
	}
}

// metrics count the actions of visitors, and limit the log.
type metrics struct {
	done    *prometheus.CounterVec
	refused *prometheus.CounterVec

	lines map[string]*terse.Line // log lines, by action and reason; the map never changes
}

// newMetrics registers with reg, or nowhere if reg is nil. Each label value exists
// from the start.
func newMetrics(reg prometheus.Registerer) metrics {
	factory := promauto.With(reg)
	m := metrics{
		done: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "presence_actions_total",
			Help: "What visitors asked for and got: to join, to leave, to be in the room again through a new socket (resume).",
		}, []string{"action"}),
		refused: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "presence_refusals_total",
			Help: "What visitors asked for and did not get, by reason. A resume is tried again by itself.",
		}, []string{"action", "reason"}),
		lines: map[string]*terse.Line{},
	}
	exists := func(action, reason string) {
		m.refused.WithLabelValues(action, reason)
		m.lines[action+reason] = &terse.Line{}
	}
	for _, action := range []string{actionJoin, actionLeave, actionResume} {
		m.done.WithLabelValues(action)
		for _, reason := range []string{reasonRedisFull, reasonDamaged, reasonUnavailable, reasonOther} {
			exists(action, reason)
		}
	}
	for _, reason := range []string{reasonName, reasonRoomFull, reasonTooManyRooms, reasonAddress, reasonAccess} {
		exists(actionJoin, reason)
	}
	return m
}

// count counts the outcome of an action.
func (m metrics) count(action string, err error) {
	if err != nil {
		m.refused.WithLabelValues(action, reasonOf(err)).Inc()
		return
	}
	m.done.WithLabelValues(action).Inc()
}

// due reports whether to log now that action failed with err, and how many such failures
// were not logged since the last line.
func (m metrics) due(action string, err error) (leftOut int, due bool) {
	line := m.lines[action+reasonOf(err)]
	if line == nil {
		return 0, true // this action should not fail for this reason
	}
	return line.Due()
}
