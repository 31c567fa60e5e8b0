package httpapi

import "net/http"

// A Code says what is wrong in a word for programs. It is the end of a problem's
// type, urn:presence:problem:CODE.
type Code string

// The codes of problems.
const (
	NotFound         Code = "not_found"          // 404: there is no such address
	NoSuchRoom       Code = "no_such_room"       // 404: no room can have this name
	MethodNotAllowed Code = "method_not_allowed" // 405: the Allow header says which are
	Unavailable      Code = "unavailable"        // 503: Redis can't be reached
)

// problem is a problem document, RFC 9457 section 3, with two members of our own.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Code   Code   `json:"code"`
	Detail string `json:"detail"` // what to do
	Retry  string `json:"retry"`  // never, backoff or now
}

// known returns what all problems of a code have in common.
func (c Code) known() problem {
	p := problem{Type: "urn:presence:problem:" + string(c), Code: c, Retry: "never"}
	switch c {
	case NotFound:
		p.Status, p.Title = http.StatusNotFound, "There is nothing at this address"
	case NoSuchRoom:
		p.Status, p.Title = http.StatusNotFound, "There can be no such room"
	case MethodNotAllowed:
		p.Status, p.Title = http.StatusMethodNotAllowed, "This address does not take the method"
	case Unavailable:
		p.Status, p.Title, p.Retry = http.StatusServiceUnavailable, "Redis can't be reached at the moment", "backoff"
	}
	return p
}

// Problem answers with a problem document. detail is for people: a sentence that says
// what to do, in our own words.
func Problem(w http.ResponseWriter, code Code, detail string) {
	p := code.known()
	p.Detail = detail
	write(w, p.Status, "application/problem+json", p)
}
