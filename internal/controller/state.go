package controller

import (
	"log/slog"

	"presence/internal/live"
	"presence/internal/replica"
)

// PresenceState is what one visitor's page is rendered from. It is pure data:
// livetemplate copies it for every connection.
//
// For a page that is loaded or posted it is all there is to see. For a live one
// livetemplate has only what is the visitor's own: the rest, by the tag of each field,
// is the same for all, stays empty here, and is sent by [live.Pages].
type PresenceState struct {
	// Room is the id of the room that is shown.
	Room string `live:"own"`

	// Visit names this visitor in the process; peers' actions, which come
	// without a request, find the visitor by it. Never rendered.
	Visit string `live:"own"`

	// Username and Joined are this connection's own: who the visitor is in the
	// room, and whether at all. A change of the room never touches them.
	Username string `live:"own"`
	Joined   bool   `live:"own"`
	UserID   string `live:"own"`

	// What follows is shared by all who look at the room.

	Known       bool  `live:"shared"` // whether the numbers are known at all
	Users       int   `live:"shared"` // distinct users online
	Connections int   `live:"shared"` // their connections
	Roster      []Row `live:"shared"` // the first of them by order of joining
	More        int   `live:"shared"` // users online beyond the roster
	Stale       bool  `live:"shared"` // Redis is away: these are the numbers of the last good moment

	// Rooms are links to the busiest rooms that exist.
	Rooms []RoomLink `live:"own"`

	Replica string `live:"own"` // which replica serves this page
	Backend string `live:"own"` // what holds its data, such as "Redis" or "single replica, in memory"
	Refresh int    `live:"own"` // seconds after which a page without JavaScript reloads itself
}

// Row is one name of the roster.
type Row struct {
	ID   string `live:"id"` // the user's id, unique in the roster
	Name string `live:"shared"`
	Own  bool   `live:"mark"` // the visitor's own
}

// RoomLink leads to a room.
type RoomLink struct {
	Name  string
	Path  string
	Users int
	Here  bool // the room that is being looked at
}

// LiveOptions are how live pages of a room are rendered.
func LiveOptions(logger *slog.Logger) live.Options {
	return live.Options{
		State:    func(view replica.View) any { return PresenceState{}.Shows(view) },
		Messages: append(flashes(), fieldName),
		Logger:   logger,
	}
}
