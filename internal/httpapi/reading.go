package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"presence/internal/access"
	"presence/internal/presence"
	"presence/internal/room"
	"presence/internal/store"
	"presence/internal/stream"
)

const (
	// maxQuery is the largest body of a query, in bytes. maxAsked is how many rooms, and how
	// many users, a query may name.
	maxQuery = 64 << 10
	maxAsked = 100

	// maxChanges is how many entries of the log an answer has at most.
	maxChanges = 256
)

// Occupancy is the number of users and connections of a room.
type Occupancy struct {
	Room        string `json:"room"`
	Users       int    `json:"users"`       // distinct users online
	Connections int    `json:"connections"` // their connections
	Version     int64  `json:"version"`     // rises with every change
	Stale       bool   `json:"stale"`       // Redis is away; the numbers are the last that were read
	AsOf        string `json:"as_of"`       // when it was read, RFC 3339 with milliseconds, UTC
}

func occupancyOf(name string, v room.View) Occupancy {
	return Occupancy{name, v.Users, v.Connections, v.Version, v.Stale, stream.Stamp(v.AsOf)}
}

// Room serves GET /v1/rooms/{room}. An empty room is no error: it has 0 users. While
// Redis is away the answer is the last known one, marked stale, or 503 when there is none.
func (a *API) Room(w http.ResponseWriter, r *http.Request) {
	name, g, ok := a.asked(w, r, access.Observe)
	if !ok {
		return
	}
	view, err := a.rooms.Peek(r.Context(), name)
	if err != nil {
		fail(w, err)
		return
	}
	h := w.Header()
	h.Set("Vary", "Authorization, Origin")
	h.Set("Cache-Control", "no-cache")
	if g.Speaker != "" {
		h.Set("Cache-Control", "no-cache, private")
	}
	if !view.Stale {
		tag := fmt.Sprintf(`W/"%d"`, view.Version)
		h.Set("ETag", tag)
		if matches(r.Header.Values("If-None-Match"), tag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	answer(w, occupancyOf(name, view))
}

// matches reports whether a tag is one of those of If-None-Match (RFC 9110, 13.1.2),
// which are compared weakly.
func matches(headers []string, tag string) bool {
	for _, header := range headers {
		for one := range strings.SplitSeq(header, ",") {
			one = strings.TrimSpace(one)
			if one == "*" || strings.TrimPrefix(one, "W/") == strings.TrimPrefix(tag, "W/") {
				return true
			}
		}
	}
	return false
}

// Rooms serves GET /v1/rooms: the rooms that are not empty and that the caller may see, by
// name.
func (a *API) Rooms(w http.ResponseWriter, r *http.Request) {
	g, err := a.opts.Access.Grant(r, false)
	if err != nil {
		fail(w, err)
		return
	}
	q := queryOf(r)
	prefix, limit, after := q.text("prefix"), q.limit(maxLimit), q.cursor()
	if prefix != "" && presence.CheckRoom(prefix) != nil {
		q.faults.add("/prefix", "A prefix is the beginning of a room's name: up to 64 characters of A-Z, a-z, 0-9, _ and -.")
	}
	if store.CheckListed(after) != nil {
		q.badCursor()
	}
	if err := q.faults.err(); err != nil {
		fail(w, err)
		return
	}
	rooms, next, err := a.rooms.List(r.Context(), g.Rooms(access.Observe).Under(prefix), after, limit)
	if err != nil {
		fail(w, err)
		return
	}
	type count struct {
		Room        string `json:"room"`
		Users       int    `json:"users"`
		Connections int    `json:"connections"`
	}
	page := struct {
		Rooms []count `json:"rooms"`
		Next  string  `json:"next,omitempty"`
	}{make([]count, len(rooms)), cursorOf(next)}
	for i, one := range rooms {
		page.Rooms[i] = count{one.Room, one.Users, one.Connections}
	}
	answer(w, page)
}

// Members serves GET /v1/rooms/{room}/members.
func (a *API) Members(w http.ResponseWriter, r *http.Request) {
	name, _, ok := a.asked(w, r, access.Observe)
	if !ok {
		return
	}
	q := queryOf(r)
	limit, from := q.limit(maxLimit), q.place()
	if err := q.faults.err(); err != nil {
		fail(w, err)
		return
	}
	view, next, err := a.list(r, name, from, limit)
	if err != nil {
		fail(w, err)
		return
	}
	page := struct {
		Occupancy
		Members []stream.Member `json:"members"`
		Next    string          `json:"next,omitempty"`
	}{occupancyOf(name, view), stream.MembersOf(view.Members), ""}
	if next != (place{}) {
		page.Next = cursorOf(next.String())
	}
	answer(w, page)
}

// list returns a room with a page of its members, and where the list continues; the zero
// place if it ends.
//
// If all members of a room are known in order, the list has that order. The next page begins
// after the last member of the page before, also if members have come or gone since. A larger
// room is scanned. If it was smaller when the list began, the scan begins at its beginning.
func (a *API) list(r *http.Request, name string, from place, limit int) (view room.View, next place, err error) {
	if !from.scan {
		view, err = a.rooms.Look(r.Context(), name)
		if err != nil {
			return view, next, err
		}
		if view.Complete() {
			last := presence.Member{User: presence.User{ID: from.user, Since: from.since}}
			at, found := slices.BinarySearchFunc(view.Members, last, presence.Member.Compare)
			if found {
				at++
			}
			view.Members = view.Members[at:]
			if len(view.Members) > limit {
				view.Members = view.Members[:limit]
				last = view.Members[limit-1]
				next = place{since: last.Since, user: last.ID}
			}
			return view, next, nil
		}
	}
	view, cursor, err := a.rooms.Scan(r.Context(), name, from.cursor, limit)
	if err == nil && cursor.At != 0 {
		next = place{scan: true, cursor: cursor}
	}
	return view, next, err
}

// Member serves GET /v1/rooms/{room}/members/{user}. The answer has no field which says that
// it is stale, so while the room is stale the answer is 503.
func (a *API) Member(w http.ResponseWriter, r *http.Request) {
	name, _, ok := a.asked(w, r, access.Observe)
	if !ok {
		return
	}
	user := r.PathValue("user")
	if err := presence.CheckID(user); err != nil {
		fail(w, invalid(Fault{"/user", idRule}))
		return
	}
	views, err := a.rooms.Pick(r.Context(), []string{user}, name)
	switch {
	case err != nil:
		fail(w, err)
	case views[0].Stale:
		fail(w, presence.ErrUnavailable)
	case len(views[0].Members) == 0:
		Problem(w, NotPresent, "This user is not in the room.")
	default:
		answer(w, stream.MemberOf(views[0].Members[0]))
	}
}

// The rules for the name of a room, and for the id of a user or a connection.
const (
	roomRule = "It must be 1 to 64 characters of A-Z, a-z, 0-9, _ and -."
	idRule   = "It must be 1 to 128 characters of A-Z, a-z, 0-9 and _.:@|+=~-, but not . or .."
)

// Changes serves GET /v1/rooms/{room}/changes.
func (a *API) Changes(w http.ResponseWriter, r *http.Request) {
	name, _, ok := a.asked(w, r, access.Observe)
	if !ok {
		return
	}
	q := queryOf(r)
	limit := q.limit(maxChanges)
	after, ok := number(q.text("after"), maxVersion-1)
	if !ok {
		q.faults.add("/after", "Give the version of the room that you know: the answer has the changes after it.")
	}
	if err := q.faults.err(); err != nil {
		fail(w, err)
		return
	}
	changes, occupancy, told, err := a.rooms.Changes(r.Context(), name, after, limit)
	if err != nil {
		fail(w, err)
		return
	}
	if !told {
		Problem(w, Gone, "The log no longer has the changes since version "+strconv.FormatInt(after, 10)+". Please read the room, and go on from its version.")
		return
	}
	type change struct {
		Version     int64           `json:"version"`
		Users       int             `json:"users"`
		Connections int             `json:"connections"`
		Joins       []stream.Member `json:"joins"`
		Updates     []stream.Member `json:"updates"`
		Leaves      []stream.Left   `json:"leaves"`
	}
	list := make([]change, len(changes))
	for i, c := range changes {
		list[i] = change{c.Version, c.Users, c.Connections, stream.MembersOf(c.Joined), stream.MembersOf(c.Updated), stream.LeftOf(c.Left)}
	}
	answer(w, struct {
		Room    string   `json:"room"`
		Version int64    `json:"version"`
		Changes []change `json:"changes"`
	}{name, occupancy.Version, list})
}

// Query serves POST /v1/query: the occupancy of some rooms, and in which of these rooms
// each of some users is.
func (a *API) Query(w http.ResponseWriter, r *http.Request) {
	g, err := a.opts.Access.Grant(r, false)
	if err != nil {
		fail(w, err)
		return
	}
	o, err := readObject(w, r, maxQuery, "rooms", "users")
	if err != nil {
		fail(w, err)
		return
	}
	rooms := o.list("rooms", presence.CheckRoom, roomRule)
	users := o.list("users", presence.CheckID, idRule)
	for _, name := range rooms {
		if err := g.Need(access.Observe, name); err != nil && presence.CheckRoom(name) == nil {
			fail(w, err)
			return
		}
	}
	if err := o.faults.err(); err != nil {
		fail(w, err)
		return
	}
	views, err := a.rooms.Pick(r.Context(), users, rooms...)
	if err != nil {
		fail(w, err)
		return
	}
	type where struct {
		User  string   `json:"user"`
		Rooms []string `json:"rooms"`
	}
	reply := struct {
		Rooms []Occupancy `json:"rooms"`
		Users []where     `json:"users"`
	}{make([]Occupancy, len(rooms)), make([]where, len(users))}
	in := map[string][]string{} // user -> rooms
	for i, view := range views {
		reply.Rooms[i] = occupancyOf(rooms[i], view)
		for _, m := range view.Members {
			if !slices.Contains(in[m.ID], rooms[i]) {
				in[m.ID] = append(in[m.ID], rooms[i])
			}
		}
	}
	for i, user := range users {
		reply.Users[i] = where{user, append([]string{}, in[user]...)}
	}
	answer(w, reply)
}

// list returns a field that is a list of up to maxAsked strings that check allows.
func (o *object) list(name string, check func(string) error, rule string) []string {
	if !o.has(name) {
		return nil
	}
	var list []string
	if json.Unmarshal(o.fields[name], &list) != nil {
		o.faults.add("/"+name, "It must be a list of strings.")
		return nil
	}
	if len(list) > maxAsked {
		o.faults.add("/"+name, fmt.Sprintf("It may have at most %d elements.", maxAsked))
		return nil
	}
	for i, one := range list {
		if check(one) != nil {
			o.faults.add(fmt.Sprintf("/%s/%d", name, i), rule)
		}
	}
	return list
}
