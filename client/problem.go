package client

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Code says in a word what is wrong, or why a stream has ended.
type Code string

// The codes of problems.
const (
	Unauthorized         Code = "unauthorized"           // 401: no credentials, or bad ones
	Forbidden            Code = "forbidden"              // 403: the credentials do not allow it
	NotFound             Code = "not_found"              // 404: there is no such address
	NoSuchRoom           Code = "no_such_room"           // 404: no room can have this name
	NotPresent           Code = "not_present"            // 404: that user, or connection, is not in the room
	MethodNotAllowed     Code = "method_not_allowed"     // 405: the address does not take the method
	RoomFull             Code = "room_full"              // 409, and of a stream: the room has no place
	TooManyRooms         Code = "too_many_rooms"         // 409: there are as many rooms as there may be
	Gone                 Code = "gone"                   // 410: the log does not reach back that far
	TooLarge             Code = "too_large"              // 413: the request is too large
	UnsupportedMediaType Code = "unsupported_media_type" // 415: the body is of a kind that is not read
	Invalid              Code = "invalid"                // 422: the request says something that can't be
	RateLimited          Code = "rate_limited"           // 429: too many requests in a short time
	Unavailable          Code = "unavailable"            // 503: Redis can't be reached
)

// The codes of streams that have ended.
const (
	Draining     Code = "draining"      // the server is about to stop
	Rotated      Code = "rotated"       // a stream that joins a user lasts some minutes
	TokenExpired Code = "token_expired" // the token that allowed it
	Removed      Code = "removed"       // the user was removed from the room
	Replaced     Code = "replaced"      // another stream has joined with the connection
	HasLeft      Code = "left"          // the connection was ended
)

// Retry says whether something is worth another try.
type Retry string

// What to do after a problem, or when a stream has ended.
const (
	RetryNever   Retry = "never"   // it would end the same way
	RetryNow     Retry = "now"     // at once
	RetryBackoff Retry = "backoff" // after a while, and then later and later
)

// Fault is one thing that is wrong with what a request says.
type Fault struct {
	// Pointer says where: in a body by a JSON pointer (RFC 6901); elsewhere it is "/" and
	// the name of a parameter.
	Pointer string `json:"pointer"`

	// Detail is a sentence that says what can be.
	Detail string `json:"detail"`
}

// Problem is the error of a refused request: a problem document of RFC 9457. If not the
// server but, for example, a balancer answered, only Status, Title and Retry are set.
type Problem struct { //nolint:errname // is called as in RFC 9457
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"` // of HTTP
	Code   Code    `json:"code"`
	Detail string  `json:"detail"` // a sentence that says what to do
	Retry  Retry   `json:"retry"`
	Errors []Fault `json:"errors"` // of [Invalid]

	// RetryAfter is how long to wait at least before the next try; 0: the server did not say.
	RetryAfter time.Duration `json:"-"`
}

// Error returns all parts of the problem.
func (p *Problem) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "presence: %d %s", p.Status, p.Title)
	if p.Detail != "" {
		text.WriteString(": " + p.Detail)
	}
	for _, fault := range p.Errors {
		fmt.Fprintf(&text, " (%s: %s)", fault.Pointer, fault.Detail)
	}
	return text.String()
}

// problemOf reads the problem in an answer.
func problemOf(resp *http.Response) *Problem {
	const most = 64 << 10
	p := &Problem{}
	kind := resp.Header.Get("Content-Type")
	if !strings.HasPrefix(kind, "application/problem+json") || json.NewDecoder(io.LimitReader(resp.Body, most)).Decode(p) != nil {
		*p = Problem{Title: http.StatusText(resp.StatusCode)}
		if to := resp.Header.Get("Location"); to != "" {
			p.Detail = "The server is at " + to + "."
		}
	}
	p.Status = resp.StatusCode
	switch p.Retry {
	case RetryNever, RetryNow, RetryBackoff:
	default:
		p.Retry = retryOf(p.Status)
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		p.RetryAfter = time.Duration(n) * time.Second
	}
	return p
}

// retryOf is what to do after an answer that does not say it.
func retryOf(status int) Retry {
	if status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
		return RetryBackoff
	}
	return RetryNever
}

// EndError is the error for a stream that the server has ended.
type EndError struct {
	Code  Code  `json:"code"` // why
	Retry Retry `json:"retry"`
}

// Error says why.
func (e *EndError) Error() string { return "presence: the stream has ended: " + string(e.Code) }
