package access

import (
	"github.com/prometheus/client_golang/prometheus"
)

// A Kind is how a request is refused.
type Kind uint8

// The kinds of refusals.
const (
	Unauthorized Kind = iota // 401: there are no credentials, or no good ones
	Forbidden                // 403: they are good, but not for this
	Limited                  // 429: too much from one address
)

// A Reason is why a request was refused, as metrics count it.
type Reason string

// The reasons.
const (
	ReasonNoCredentials Reason = "no_credentials"
	ReasonMalformed     Reason = "malformed"     // the Authorization header
	ReasonUnknownKey    Reason = "unknown_key"   // an API key
	ReasonBadToken      Reason = "bad_token"     // its signature or a claim
	ReasonExpiredToken  Reason = "expired_token" // it was good once
	ReasonNoRight       Reason = "no_right"      // of this kind in this room
	ReasonOtherUser     Reason = "other_user"    // a token that speaks for somebody else
	ReasonWatched       Reason = "watched"       // too many rooms from one address
)

// A Refusal is the error for a request that may not do what it asks for.
type Refusal struct { //nolint:errname // a refusal is no error of the program
	Kind   Kind
	Reason Reason

	// Detail is for people: a sentence that says what to do. It repeats nothing that the
	// sender sent.
	Detail string
}

// Error returns the detail.
func (r *Refusal) Error() string { return r.Detail }

// newRefusals returns the counter of refusals. Each reason exists from the start.
func newRefusals(reg prometheus.Registerer) *prometheus.CounterVec {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "presence_grants_refused_total",
		Help: "Calls of the API, and visits of pages with a token, that were refused for their credentials, by reason.",
	}, []string{"reason"})
	if reg != nil {
		reg.MustRegister(total)
	}
	for _, reason := range []Reason{
		ReasonNoCredentials, ReasonMalformed, ReasonUnknownKey, ReasonBadToken,
		ReasonExpiredToken, ReasonNoRight, ReasonOtherUser, ReasonWatched,
	} {
		total.WithLabelValues(string(reason))
	}
	return total
}
