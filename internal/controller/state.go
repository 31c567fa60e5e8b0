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

	// As is the user whom a token speaks for, Given the name that it gives, and Watching
	// says that it does not let its bearer join. "" for guests, who name themselves.
	As       string `live:"own"`
	Given    string `live:"own"`
	Watching bool   `live:"own"`

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
	Backend string `live:"own"` // what a visitor should know of where its data is; mostly empty
	Home    string `live:"own"` // where the name of the site leads
	Origin  string `live:"own"` // of the page, such as https://example.org; known while it is loaded
	Refresh int    `live:"own"` // seconds after which a page that is not live reloads itself
}

// Self is the visitor's own row, to be shown apart where the roster ends before it.
func (s PresenceState) Self() Row { return Row{ID: s.UserID, Name: s.Username, Own: true} }

// Path is where the page of the room is.
func (s PresenceState) Path() string { return RoomPath(s.Room) }

// Digits is how many digits the number of users has.
func (s PresenceState) Digits() int { return len(strconv.Itoa(s.Users)) }

// Row is one name of the roster.
type Row struct {
	ID   string `live:"id"` // the user's id, unique in the roster
	Name string `live:"shared"`
	Tag  string `live:"shared"` // what tells users of one name apart; empty where it is the only one
	Own  bool   `live:"mark"`   // the visitor's own
}

// Hue is the colour of the user, 0 to 7, the same on every screen.
func (r Row) Hue() int {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if r.ID == "" {
		return 0
	}
	return max(0, strings.IndexByte(alphabet, r.ID[len(r.ID)-1])) % 8
}

// Initial is the first character of the name as people see it, a letter in title
// case: of "ǆ" that is "ǅ", of a flag the whole flag.
func (r Row) Initial() string {
	first, _, _, _ := uniseg.FirstGraphemeClusterInString(r.Name, -1)
	letter, size := utf8.DecodeRuneInString(first)
	if size == 0 {
		return ""
	}
	return string(unicode.ToTitle(letter)) + first[size:]
}

// minTag is the length of a tag in characters; more where that does not tell users
// apart.
const minTag = 3

// rowsOf returns the rows of a roster, in its order, with nobody's own marked.
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

// tag tells users of one name apart by what is made from their ids, and so stays
// with them as others come and go.
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

// RoomLink leads to a room. It has no numbers: they would be as old as the page.
type RoomLink struct {
	Name string
	Path string
	Here bool // the room that is being looked at
}

// LiveOptions are how live pages of a room are rendered.
func LiveOptions(logger *slog.Logger) live.Options {
	return live.Options{
		State:    func(view room.View) any { return PresenceState{}.Shows(view) },
		Messages: append(flashes(), fieldName),
		Logger:   logger,
	}
}
