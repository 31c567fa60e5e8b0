package controller

import (
	"fmt"
	"hash/crc32"
	"log/slog"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"

	"presence/internal/live"
	"presence/internal/presence"
	"presence/internal/room"
)

// PresenceState is the state from which one visitor's page is rendered. It is pure data:
// livetemplate copies it for every connection.
//
// A page that is loaded or posted is rendered from all of it. For a live page
// livetemplate has only the visitor's own fields. The shared fields, by their tags, stay
// empty there, and [live.Pages] sends what they show.
type PresenceState struct {
	// Room is the id of the room that is shown.
	Room string `live:"own"`

	// Visit identifies this visit in the process. Actions of other goroutines come
	// without a request, and find the visit by it. It is never rendered.
	Visit string `live:"own"`

	// Username, Joined and UserID say who the visitor is in the room, if at all. A change
	// of the room never touches them.
	Username string `live:"own"`
	Joined   bool   `live:"own"`
	UserID   string `live:"own"`

	// As is the user of the visitor's token, Given is the name in the token, and Watching
	// says that the token does not allow joining. They are empty for guests, who name
	// themselves.
	As       string `live:"own"`
	Given    string `live:"own"`
	Watching bool   `live:"own"`

	// The following fields are shared by all visitors of the room.

	Known       bool  `live:"shared"` // whether the numbers are known at all
	Users       int   `live:"shared"` // distinct users online
	Connections int   `live:"shared"` // their connections
	Roster      []Row `live:"shared"` // the first users by order of joining
	More        int   `live:"shared"` // users online beyond the roster
	Stale       bool  `live:"shared"` // Redis is away: these are the last known numbers

	// Rooms are links to the busiest rooms that exist.
	Rooms []RoomLink `live:"own"`

	Replica string `live:"own"` // the replica that serves this page
	Backend string `live:"own"` // what a visitor should know about where the data are; usually empty
	Home    string `live:"own"` // where the name of the site links to
	Origin  string `live:"own"` // of the page, such as https://example.org; known only while it is loaded
	Refresh int    `live:"own"` // seconds after which a page that is not live reloads itself
}

// Self returns the visitor's own row, which the page shows separately if the roster ends
// before it.
func (s PresenceState) Self() Row { return Row{ID: s.UserID, Name: s.Username, Own: true} }

// Path returns the path of the room's page.
func (s PresenceState) Path() string { return RoomPath(s.Room) }

// Digits returns how many digits the number of users has.
func (s PresenceState) Digits() int { return len(strconv.Itoa(s.Users)) }

// Row is one user of the roster.
type Row struct {
	ID   string `live:"id"` // the user's id, unique in the roster
	Name string `live:"shared"`
	Tag  string `live:"shared"` // tells users of the same name apart; empty if no other has the name
	Own  bool   `live:"mark"`   // the visitor's own row
}

// Hue returns the colour of the user, 0 to 7. It is the same on every screen.
func (r Row) Hue() int {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if r.ID == "" {
		return 0
	}
	return max(0, strings.IndexByte(alphabet, r.ID[len(r.ID)-1])) % 8
}

// Initial returns the first character of the name as people see it. A letter is in title
// case: for "ǆ" it is "ǅ". For a flag it is the whole flag.
func (r Row) Initial() string {
	first, _, _, _ := uniseg.FirstGraphemeClusterInString(r.Name, -1)
	letter, size := utf8.DecodeRuneInString(first)
	if size == 0 {
		return ""
	}
	return string(unicode.ToTitle(letter)) + first[size:]
}

// minTag is the least length of a tag in characters. A tag is longer if that is needed to
// tell users apart.
const minTag = 3

// rowsOf returns the rows of a roster, in its order. No row is marked as the visitor's
// own.
func rowsOf(roster []presence.Member) []Row {
	rows := make([]Row, len(roster))
	byName := make(map[string][]*Row, len(roster))
	for i, user := range roster {
		rows[i] = Row{ID: user.ID, Name: user.Name}
		byName[user.Name] = append(byName[user.Name], &rows[i])
	}
	for _, same := range byName {
		tag(same)
	}
	return rows
}

// tag gives users of the same name different tags. The tags are made from the users' ids,
// so they stay the same as others come and go.
func tag(same []*Row) {
	if len(same) < 2 {
		return
	}
	for size := minTag; ; size++ {
		taken := make(map[string]bool, len(same))
		for _, row := range same {
			sum := fmt.Sprintf("%08x", crc32.ChecksumIEEE([]byte(row.ID)))
			row.Tag = sum[:size]
			taken[row.Tag] = true
		}
		if len(taken) == len(same) || size == 2*crc32.Size {
			return
		}
	}
}

// RoomLink is a link to a room. It has no numbers, because they would be as old as the
// page.
type RoomLink struct {
	Name string
	Path string
	Here bool // the room that the visitor looks at
}

// LiveOptions returns the options for the live pages of a room.
func LiveOptions(logger *slog.Logger) live.Options {
	return live.Options{
		State:    func(view room.View) any { return PresenceState{}.Shows(view) },
		Messages: append(flashes(), fieldName),
		Logger:   logger,
	}
}
