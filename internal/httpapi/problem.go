package httpapi

import (
	"errors"
	"net/http"

	"presence/internal/access"
	"presence/internal/presence"
)

// A Code says what is wrong in a word for programs. It is the end of a problem's
// type, urn:presence:problem:CODE.
type Code string

// The codes of problems.
const (
	Unauthorized         Code = "unauthorized"           // 401: no credentials, or bad ones
	Forbidden            Code = "forbidden"              // 403: the credentials do not allow it
	NotFound             Code = "not_found"              // 404: there is no such address
	NoSuchRoom           Code = "no_such_room"           // 404: no room can have this name
	NotPresent           Code = "not_present"            // 404: that user, or connection, is not in the room
	MethodNotAllowed     Code = "method_not_allowed"     // 405: the Allow header says which are
	RoomFull             Code = "room_full"              // 409: the room has as many users as it may have
	TooManyRooms         Code = "too_many_rooms"         // 409: there are as many rooms as there may be
	Gone                 Code = "gone"                   // 410: the log does not reach back that far
	TooLarge             Code = "too_large"              // 413: the body is larger than the server reads
	UnsupportedMediaType Code = "unsupported_media_type" // 415: the body is multipart
	Invalid              Code = "invalid"                // 422: the request has mistakes; see errors
	RateLimited          Code = "rate_limited"           // 429: too many requests in a short time
	Unavailable          Code = "unavailable"            // 503: Redis can't be reached
)

// Fault is one thing that is wrong with what a request says.
type Fault struct {
	// Pointer says where: in a body by a JSON pointer (RFC 6901); elsewhere it is "/"
	// and the name of the parameter.
	Pointer string `json:"pointer"`

	// Detail is a sentence that says what is legal.
	Detail string `json:"detail"`
}

// problem is a problem document, RFC 9457 section 3, with three members of our own.
type problem struct {
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Code   Code    `json:"code"`
	Detail string  `json:"detail"` // what to do
	Retry  string  `json:"retry"`  // never, backoff or now
	Errors []Fault `json:"errors,omitempty"`
}

// problems has the parts that all problems of a code share. after is the number of seconds
// after which the request may be sent again.
var problems = map[Code]struct {
	status              int
	title, retry, after string
}{
	Unauthorized:         {http.StatusUnauthorized, "This needs an API key or a token", "never", ""},
	Forbidden:            {http.StatusForbidden, "The key or token does not allow this", "never", ""},
	NotFound:             {http.StatusNotFound, "There is nothing at this address", "never", ""},
	NoSuchRoom:           {http.StatusNotFound, "No room can have this name", "never", ""},
	NotPresent:           {http.StatusNotFound, "Not in the room", "never", ""},
	MethodNotAllowed:     {http.StatusMethodNotAllowed, "This address does not support the method", "never", ""},
	RoomFull:             {http.StatusConflict, "The room is full", "backoff", ""},
	TooManyRooms:         {http.StatusConflict, "There are too many rooms", "backoff", ""},
	Gone:                 {http.StatusGone, "The changes since that version are no longer known", "never", ""},
	TooLarge:             {http.StatusRequestEntityTooLarge, "The body is too large", "never", ""},
	UnsupportedMediaType: {http.StatusUnsupportedMediaType, "The content type of the body is not supported", "never", ""},
	Invalid:              {http.StatusUnprocessableEntity, "The request has mistakes", "never", ""},
	RateLimited:          {http.StatusTooManyRequests, "Too many requests", "backoff", "1"},
	Unavailable:          {http.StatusServiceUnavailable, "Redis can't be reached at the moment", "backoff", "2"},
}

// Problem answers with a problem document. detail is for people: a sentence that says
// what to do, in our own words. faults are for [Invalid].
func Problem(w http.ResponseWriter, code Code, detail string, faults ...Fault) {
	known := problems[code]
	h := w.Header()
	if code == Unauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if known.after != "" {
		h.Set("Retry-After", known.after)
	}
	h.Set("Cache-Control", "no-store")
	write(w, known.status, "application/problem+json", problem{
		Type: "urn:presence:problem:" + string(code), Title: known.title, Status: known.status,
		Code: code, Detail: detail, Retry: known.retry, Errors: faults,
	})
}

// fail answers with the problem that err is.
func fail(w http.ResponseWriter, err error) {
	var refusal *access.Refusal
	var wrong *mistake
	switch {
	case errors.As(err, &wrong):
		Problem(w, wrong.code, wrong.detail, wrong.faults...)
	case errors.As(err, &refusal):
		Refuse(w, refusal)
	case errors.Is(err, presence.ErrNotPresent):
		Problem(w, NotPresent, "Nobody is in the room through this connection. PUT joins.")
	case errors.Is(err, presence.ErrRoomFull):
		Problem(w, RoomFull, "The room has as many users as the server allows. Please try again later.")
	case errors.Is(err, presence.ErrTooManyRooms):
		Problem(w, TooManyRooms, "There are as many rooms as the server allows. Please try again later.")
	case errors.Is(err, presence.ErrAddressRooms):
		Problem(w, TooManyRooms, "Users from your address are in as many rooms as the server allows. Please leave one first.")
	case errors.Is(err, presence.ErrAddressMembers):
		Problem(w, RateLimited, "Your address has as many members in rooms as the server allows. Please leave a room first.")
	case errors.Is(err, presence.ErrFull):
		Problem(w, Unavailable, "Redis has no memory left for new members. Please try again later.")
	case errors.Is(err, presence.ErrDamaged):
		Problem(w, Unavailable, "The room's data in Redis are damaged. Please try again later.")
	default:
		Problem(w, Unavailable, "Redis does not answer, or its data are being put back. Please try again.")
	}
}
