package socket

import (
	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"presence/internal/wire"
)

// Why a connection ended; doc.go explains each reason.
const (
	reasonClient      = "client"
	reasonSlow        = "slow"
	reasonPingTimeout = "ping_timeout"
	reasonTooBig      = "too_big"
	reasonRate        = "rate"
	reasonProtocol    = "protocol"
	reasonDrain       = "drain"
	reasonCapacity    = "capacity"
	reasonError       = "error"
)

// Why a frame was not passed on. After too_big, binary, utf8 and ping the connection is
// also closed; after rate, when there were too many.
const (
	rejectTooBig    = "too_big"
	rejectBinary    = "binary"
	rejectUTF8      = "utf8"
	rejectMalformed = wire.RejectMalformed
	rejectAction    = wire.RejectAction
	rejectRate      = "rate"
	rejectPing      = "ping" // more pings than any client needs
)

// reasonOf returns the reason that belongs to the close code (RFC 6455, section 7.4.1,
// and its IANA registry) with which the server closes.
func reasonOf(code int) string {
	switch code {
	case websocket.CloseGoingAway, websocket.CloseServiceRestart:
		return reasonDrain
	case websocket.CloseTryAgainLater:
		return reasonCapacity
	case websocket.CloseMessageTooBig:
		return reasonTooBig
	case websocket.ClosePolicyViolation:
		return reasonRate
	case websocket.CloseProtocolError, websocket.CloseUnsupportedData, websocket.CloseInvalidFramePayloadData:
		return reasonProtocol
	}
	return reasonError
}

type metrics struct {
	closes   *prometheus.CounterVec
	rejected *prometheus.CounterVec
}

// newMetrics registers the metrics with reg, or nowhere if reg is nil. Each label value
// exists from the start, so that a rate over it begins at zero.
func newMetrics(reg prometheus.Registerer, connections func() float64) metrics {
	factory := promauto.With(reg)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "presence_socket_connections",
		Help: "WebSocket connections that are open.",
	}, connections)
	m := metrics{
		closes: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "presence_socket_closes_total",
			Help: "WebSocket connections that ended, by reason.",
		}, []string{"reason"}),
		rejected: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "presence_socket_frames_rejected_total",
			Help: "Messages of peers that were not passed on, by reason.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{
		reasonClient, reasonSlow, reasonPingTimeout, reasonTooBig, reasonRate,
		reasonProtocol, reasonDrain, reasonCapacity, reasonError,
	} {
		m.closes.WithLabelValues(reason)
	}
	for _, reason := range []string{
		rejectTooBig, rejectBinary, rejectUTF8, rejectMalformed, rejectAction, rejectRate, rejectPing,
	} {
		m.rejected.WithLabelValues(reason)
	}
	return m
}
