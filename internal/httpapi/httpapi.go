// Package httpapi is the API for programs: they read rooms as JSON, and put users into
// rooms. Errors are problem documents (RFC 9457).
//
//   - reading.go: the members of a room, and its changes
//   - events.go: event streams of rooms
//   - present.go: joining, renewing and leaving, and removing users
//   - input.go: bodies, queries and addresses, and their faults
//   - problem.go, refuse.go: the answers to errors
//
// All routes check a request in the same order: the name of the room, the credentials, the
// rights, the size and kind of the body, and then its content.
package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"presence/internal/access"
	"presence/internal/presence"
	"presence/internal/replica"
	"presence/internal/room"
	"presence/internal/stream"
)

// Options are the settings of an [API]. All but MaxMembers are needed.
type Options struct {
	// Access says what the sender of a request may do.
	Access *access.Access

	// Keys returns the keys that make the ids of connections. It waits a moment for them,
	// and returns false if they are not known yet.
	Keys func(context.Context) (presence.Keys, bool)

	// MemberTTL is how long a connection counts after a request that names no ttl.
	MemberTTL time.Duration

	// Streams are the event streams.
	Streams *stream.Streams

	// MaxMembers is how many users a room may have, as the store limits them; 0: any number.
	MaxMembers int

	// Address returns the address of a request's sender as limits tell addresses apart.
	Address func(*http.Request) string
}

// API lets programs read rooms, and put users into them.
type API struct {
	rooms   *room.Rooms
	replica *replica.Replica
	opts    Options
}

// New returns the API of rooms, in which connections are present through r.
func New(rooms *room.Rooms, r *replica.Replica, o Options) *API {
	return &API{rooms: rooms, replica: r, opts: o}
}

// Routes gives each route of the API to handle.
func (a *API) Routes(handle func(pattern string, h http.HandlerFunc)) {
	handle("GET /v1/rooms", a.Rooms)
	handle("GET /v1/rooms/{room}", a.Room)
	handle("GET /v1/rooms/{room}/members", a.Members)
	handle("GET /v1/rooms/{room}/members/{user}", a.Member)
	handle("DELETE /v1/rooms/{room}/members/{user}", a.Remove)
	handle("GET /v1/rooms/{room}/changes", a.Changes)
	handle("GET /v1/rooms/{room}/events", a.Events)
	handle("GET /v1/events", a.EventsOfRooms)
	handle("PUT /v1/rooms/{room}/connections/{connection}", a.Put)
	handle("PATCH /v1/rooms/{room}/connections/{connection}", a.Patch)
	handle("DELETE /v1/rooms/{room}/connections/{connection}", a.Delete)
	handle("POST /v1/rooms/{room}/connections/{connection}/leave", a.Leave)
	handle("POST /v1/heartbeats", a.Heartbeats)
	handle("POST /v1/query", a.Query)
}

// asked returns the room that the address of a request names, and the grant of the sender.
// If the grant does not include right, it has answered.
func (a *API) asked(w http.ResponseWriter, r *http.Request, right access.Right) (name string, g *access.Grant, ok bool) {
	name = r.PathValue("room")
	if err := presence.CheckRoom(name); err != nil {
		Problem(w, NoSuchRoom, err.Error())
		return "", nil, false
	}
	g, err := a.opts.Access.Grant(r, false)
	if err == nil {
		err = g.Need(right, name)
	}
	if err != nil {
		fail(w, err)
		return "", nil, false
	}
	return name, g, true
}

// answer sends v.
func answer(w http.ResponseWriter, v any) { write(w, http.StatusOK, "application/json", v) }

// write sends v as JSON. Caches must not keep it, unless the header already says something
// else.
func write(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil { // not for these types
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // an error is the caller's leaving
}
