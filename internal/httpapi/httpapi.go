// Package httpapi answers machines: JSON about rooms, and problem documents
// (RFC 9457) where there is nothing to tell.
package httpapi

import (
	"encoding/json"
	"net/http"

	"presence/internal/presence"
	"presence/internal/room"
)

// API serves what is known of rooms.
type API struct{ rooms *room.Rooms }

// New returns the API of rooms.
func New(rooms *room.Rooms) *API { return &API{rooms: rooms} }

// Occupancy is the answer to GET /v1/rooms/{room}.
type Occupancy struct {
	Room        string `json:"room"`
	Users       int    `json:"users"`       // distinct users online
	Connections int    `json:"connections"` // their connections
	Version     int64  `json:"version"`     // rises with every change
	Stale       bool   `json:"stale"`       // Redis is away; this is what was read last
	AsOf        string `json:"as_of"`       // when it was read, RFC 3339 with milliseconds, UTC
}

// Room serves GET /v1/rooms/{room}. A room that nobody is in has 0 users; it is
// no error to ask for one. While Redis is away the answer is the last known one,
// marked stale, or 503 when there is none.
func (a *API) Room(w http.ResponseWriter, r *http.Request) {
	room := r.PathValue("room")
	if err := presence.CheckRoom(room); err != nil {
		Problem(w, NoSuchRoom, err.Error())
		return
	}
	view, err := a.rooms.Peek(r.Context(), room)
	if err != nil && view.AsOf.IsZero() {
		w.Header().Set("Retry-After", "2")
		Problem(w, Unavailable, "Nothing is known of the room yet. Please try again.")
		return
	}
	write(w, http.StatusOK, "application/json", Occupancy{
		Room:        room,
		Users:       view.Users,
		Connections: view.Connections,
		Version:     view.Version,
		Stale:       view.Stale,
		AsOf:        view.AsOf.UTC().Format("2006-01-02T15:04:05.000Z07:00"),
	})
}

// write sends v as JSON. What was true a moment ago is not to be kept.
func write(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil { // not for these types
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // an error is the caller's leaving
}
