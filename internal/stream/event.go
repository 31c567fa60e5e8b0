package stream

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"time"

	"presence/internal/presence"
	"presence/internal/room"
)

// Member is a member of a room, as programs get it.
type Member struct {
	User        string          `json:"user"`
	Name        string          `json:"name"`
	Guest       bool            `json:"guest,omitempty"`
	Meta        json.RawMessage `json:"meta,omitempty"`
	Connections int             `json:"connections"`
	Since       string          `json:"since"`
}

// MemberOf returns m as programs get it.
func MemberOf(m presence.Member) Member {
	return Member{
		User: m.ID, Name: m.Name, Guest: m.Guest, Meta: json.RawMessage(m.Meta),
		Connections: m.Connections, Since: Stamp(time.UnixMicro(m.Since)),
	}
}

// MembersOf returns list, which may be nil, as programs get it.
func MembersOf(list []presence.Member) []Member {
	members := make([]Member, len(list))
	for i, m := range list {
		members[i] = MemberOf(m)
	}
	return members
}

// Left is a user who has left a room, as programs get it.
type Left struct {
	User   string          `json:"user"`
	Reason presence.Reason `json:"reason"`
}

// LeftOf returns list, which may be nil, as programs get it.
func LeftOf(list []presence.Left) []Left {
	left := make([]Left, len(list))
	for i, l := range list {
		left[i] = Left(l)
	}
	return left
}

// Stamp writes a time as programs get it: RFC 3339, UTC, with milliseconds.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// The kinds of events, in the order of their metrics.
const (
	kindSnapshot = iota
	kindDiff
	kindCount
	kindMode
	kindStale
	kindEnd
	kinds
)

func kindName(kind int) string {
	return [kinds]string{"snapshot", "diff", "count", "mode", "stale", "end"}[kind]
}

// message is what a stream is sent to reach a view: one event, or two.
type message uint8

const (
	nothing  message = iota
	behind           // the changes that led here have to be read
	whole            // snapshot
	large            // snapshot of a room that is too large for diffs, mode
	change           // diff
	count            // count
	grown            // mode, count
	shrunk           // mode, snapshot
	stale            // stale
	messages         // how many there are
)

// events returns the kinds of events in a message.
func (m message) events() []int {
	switch m {
	case whole:
		return []int{kindSnapshot}
	case large:
		return []int{kindSnapshot, kindMode}
	case change:
		return []int{kindDiff}
	case count:
		return []int{kindCount}
	case grown:
		return []int{kindMode, kindCount}
	case shrunk:
		return []int{kindMode, kindSnapshot}
	case stale:
		return []int{kindStale}
	default:
		return nil
	}
}

// edition is a view of a room for its streams. Each message is encoded once, when it is
// first needed.
type edition struct {
	room string
	view room.View
	made [messages][2][]byte
}

// message returns the text of m, with ids, or without them for streams of several rooms.
func (e *edition) message(m message, ids bool) []byte {
	which := 0
	if ids {
		which = 1
	}
	if made := e.made[m][which]; made != nil {
		return made
	}
	var text bytes.Buffer
	for _, kind := range m.events() {
		switch kind {
		case kindSnapshot:
			writeEvent(&text, "snapshot", e.view.Version, ids, snapshotOf(e.room, e.view))
		case kindDiff:
			change := e.view.Change
			if change == nil { // the room was empty before
				change = &presence.Change{Occupancy: e.view.Occupancy, Joined: e.view.Members}
			}
			writeEvent(&text, "diff", e.view.Version, ids, diffOf(e.room, *change))
		case kindCount:
			writeEvent(&text, "count", e.view.Version, ids, countOf(e.room, e.view))
		case kindMode:
			mode := "count"
			if m == shrunk {
				mode = "diff"
			}
			writeEvent(&text, "mode", 0, false, modeEvent{e.room, mode, "size"})
		case kindStale:
			writeEvent(&text, "stale", 0, false, staleEvent{e.room, e.view.Version, true, Stamp(e.view.AsOf)})
		}
	}
	e.made[m][which] = text.Bytes()
	return text.Bytes()
}

type snapshotEvent struct {
	countEvent

	Complete bool     `json:"complete"`
	Members  []Member `json:"members"`
}

func snapshotOf(name string, view room.View) snapshotEvent {
	return snapshotEvent{countOf(name, view), view.Complete(), MembersOf(view.Members)}
}

type countEvent struct {
	Room        string `json:"room"`
	Version     int64  `json:"version"`
	Users       int    `json:"users"`
	Connections int    `json:"connections"`
	Stale       bool   `json:"stale"`
	AsOf        string `json:"as_of"`
}

func countOf(name string, view room.View) countEvent {
	return countEvent{name, view.Version, view.Users, view.Connections, view.Stale, Stamp(view.AsOf)}
}

type diffEvent struct {
	Room        string   `json:"room"`
	Version     int64    `json:"version"`
	Users       int      `json:"users"`
	Connections int      `json:"connections"`
	Joins       []Member `json:"joins"`
	Updates     []Member `json:"updates"`
	Leaves      []Left   `json:"leaves"`
}

func diffOf(name string, c presence.Change) diffEvent {
	return diffEvent{name, c.Version, c.Users, c.Connections, MembersOf(c.Joined), MembersOf(c.Updated), LeftOf(c.Left)}
}

type modeEvent struct {
	Room    string `json:"room"`
	Mode    string `json:"mode"`
	Because string `json:"because"`
}

type staleEvent struct {
	Room    string `json:"room"`
	Version int64  `json:"version"`
	Stale   bool   `json:"stale"`
	AsOf    string `json:"as_of"`
}

// Code tells a client why its stream ends.
type Code string

// The codes. After some the client reconnects at once, after the others not at all.
const (
	Draining     Code = "draining"
	Rotated      Code = "rotated"
	TokenExpired Code = "token_expired"
	Removed      Code = "removed"
	Replaced     Code = "replaced"
	HasLeft      Code = "left"
	RoomFull     Code = "room_full"
)

// end returns the last event of a stream.
func (c Code) end() []byte {
	retry := "never"
	if c == Draining || c == Rotated {
		retry = "now"
	}
	var text bytes.Buffer
	writeEvent(&text, "end", 0, false, struct {
		Code  Code   `json:"code"`
		Retry string `json:"retry"`
	}{c, retry})
	return text.Bytes()
}

// writeEvent appends an event.
func writeEvent(text *bytes.Buffer, name string, id int64, withID bool, data any) {
	if withID {
		text.WriteString("id: ")
		text.Write(strconv.AppendInt(text.AvailableBuffer(), id, 10))
		text.WriteByte('\n')
	}
	text.WriteString("event: " + name + "\ndata: ")
	_ = json.NewEncoder(text).Encode(data) // these types can be encoded; Encode ends the line
	text.WriteByte('\n')
}

const (
	// minRetry and maxRetry bound how long a client waits before it reconnects. The waits
	// are spread, since the clients of a replica that died reconnect together.
	minRetry = time.Second
	maxRetry = 3 * time.Second
)

// retryLine tells a client to reconnect after a random wait, of at most most.
func retryLine(most time.Duration) string {
	most = min(most, maxRetry)
	least := min(minRetry, most/2)
	wait := least + time.Duration(rand.Int64N(int64(most-least)+1))
	return "retry: " + strconv.FormatInt(wait.Milliseconds(), 10) + "\n\n"
}
