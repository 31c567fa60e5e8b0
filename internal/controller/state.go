package controller

// PresenceState is what one visitor's page is rendered from. It is pure data:
// livetemplate copies it for every connection.
//
// For a page that is loaded or posted it is all there is to see. For a live one
// livetemplate has only what is the visitor's own: the rest is the same for all,
// stays empty here, and is sent by pages.
type PresenceState struct {
	// Room is the id of the room that is shown.
	Room string

	// Visit names this visitor in the process; peers' actions, which come
	// without a request, find the visitor by it. Never rendered.
	Visit string

	// Username and Joined are this connection's own: who the visitor is in the
	// room, and whether at all. A change of the room never touches them.
	Username string
	Joined   bool
	UserID   string

	// What follows is shared by all who look at the room.

	Known       bool  // whether the numbers are known at all
	Users       int   // distinct users online
	Connections int   // their connections
	Roster      []Row // the first of them by order of joining
	More        int   // users online beyond the roster
	Stale       bool  // Redis is away: these are the numbers of the last good moment

	// Rooms are links to the busiest rooms that exist.
	Rooms []RoomLink

	Replica string // which replica serves this page
	Backend string // what holds its data, such as "Redis" or "single replica, in memory"
	Refresh int    // seconds after which a page without JavaScript reloads itself
}

// Row is one name of the roster.
type Row struct {
	ID   string // the user's id, unique in the roster
	Name string
	Own  bool // the visitor's own
}

// RoomLink leads to a room.
type RoomLink struct {
	Name  string
	Path  string
	Users int
	Here  bool // the room that is being looked at
}
