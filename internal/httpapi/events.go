package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"presence/internal/access"
	"presence/internal/presence"
	"presence/internal/store"
	"presence/internal/stream"
)

const (
	// maxEventRooms is how many rooms one stream may have.
	maxEventRooms = 50

	// maxVersion is above all versions. JavaScript can represent all integers below it.
	maxVersion = 1 << 53
)

// Events serves GET /v1/rooms/{room}/events: an event stream of a room, which with the
// parameter join also joins a user.
func (a *API) Events(w http.ResponseWriter, r *http.Request) {
	name, q := r.PathValue("room"), queryOf(r)
	grant, ok := a.watches(w, r, name)
	if !ok {
		return
	}
	joins := q.values.Has("join")
	if joins {
		if err := grant.Need(access.Join, name); err != nil {
			fail(w, err)
			return
		}
	}
	want := stream.Want{Rooms: []string{name}, Counts: q.countsOnly(), After: q.after(r), Until: grant.Expires}
	if joins {
		var err error
		if want.Join, err = a.joins(r, connection{room: name, grant: grant}, q); err != nil {
			fail(w, err)
			return
		}
	}
	a.stream(w, r, grant, want, q.faults)
}

// EventsOfRooms serves GET /v1/events?rooms=a,b: an event stream of several rooms.
func (a *API) EventsOfRooms(w http.ResponseWriter, r *http.Request) {
	q := queryOf(r)
	var rooms []string
	for _, list := range q.values["rooms"] {
		for name := range strings.SplitSeq(list, ",") {
			if list != "" && len(rooms) <= maxEventRooms && !slices.Contains(rooms, name) {
				rooms = append(rooms, name)
			}
		}
	}
	grant, ok := a.watches(w, r, rooms...)
	if !ok {
		return
	}
	want := stream.Want{Rooms: rooms, Several: true, Counts: q.countsOnly(), Until: grant.Expires}
	if len(rooms) == 0 || len(rooms) > maxEventRooms {
		q.faults.add("/rooms", fmt.Sprintf("Please name 1 to %d rooms, with commas between them.", maxEventRooms))
	}
	if q.values.Has("join") {
		q.faults.add("/join", "Only a stream of one room can join it: use /v1/rooms/ROOM/events.")
	}
	a.stream(w, r, grant, want, q.faults)
}

// watches returns the grant of the sender of r if the sender may observe rooms. If not, it
// has answered.
func (a *API) watches(w http.ResponseWriter, r *http.Request, rooms ...string) (*access.Grant, bool) {
	for _, name := range rooms {
		if err := presence.CheckRoom(name); err != nil {
			Problem(w, NoSuchRoom, err.Error())
			return nil, false
		}
	}
	grant, err := a.opts.Access.Grant(r, true) // of HEAD, too, which is GET without a body
	for i := 0; err == nil && i < len(rooms); i++ {
		err = grant.Need(access.Observe, rooms[i])
	}
	if err != nil {
		fail(w, err)
		return nil, false
	}
	return grant, true
}

// countsOnly reports whether the request asks only for numbers.
func (q *query) countsOnly() bool {
	mode := q.text("mode")
	if q.values.Has("mode") && mode != "count" {
		q.faults.add("/mode", "The only mode that can be asked for is count.")
	}
	return mode == "count"
}

// after returns the version that the client has. The Last-Event-ID header, which EventSource
// sends by itself, may be any text, and wins over the parameter.
func (q *query) after(r *http.Request) int64 {
	asked, ok := versionOf(q.text("after"))
	if q.values.Has("after") && !ok {
		q.faults.add("/after", "Please give the version of a room, as events and answers have it.")
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		asked, _ = versionOf(id)
	}
	return asked
}

// versionOf reads a version; 0 if text is not one.
func versionOf(text string) (version int64, ok bool) {
	if version, ok = number(text, maxVersion-1); !ok || text == "" {
		return 0, false
	}
	return version, true
}

// joins returns the user whom a stream of c's room is to join. The error is one of access
// or of the room.
func (a *API) joins(r *http.Request, c connection, q *query) (*store.Wanted, error) {
	id, user, name := q.text("join"), q.text("user"), q.text("name")
	w := &store.Wanted{SetName: q.values.Has("name")}
	switch {
	case c.grant.Token && q.values.Has("user"):
		if err := c.grant.CheckUser(user); err != nil {
			return nil, err //nolint:wrapcheck // is what is answered
		}
	case c.grant.Token:
		user = c.grant.User
	}
	if w.SetName {
		if err := c.grant.CheckName(name); err != nil {
			return nil, err //nolint:wrapcheck // is what is answered
		}
	}
	for pointer, id := range map[string]string{"/join": id, "/user": user} {
		if presence.CheckID(id) != nil {
			q.faults.add(pointer, idRule)
		}
	}
	var err error
	if w.SetName {
		name, err = presence.CleanName(name)
	} else if len(q.faults) == 0 {
		name, err = a.defaultName(r.Context(), c, user)
	}
	if err != nil {
		if !errors.As(err, new(*presence.NameError)) {
			return nil, err
		}
		q.faults.add("/name", err.Error())
	}
	keys, ok := a.opts.Keys(r.Context())
	if !ok {
		return nil, presence.ErrUnavailable
	}
	w.Connection = presence.Connection{
		ID: keys.SpeakerConnectionID(c.grant.Speaker, id), Address: a.address(r, c.grant),
		User: presence.User{ID: user, Name: name, Meta: c.grant.Meta},
	}
	return w, nil
}

// stream opens a stream.
func (a *API) stream(w http.ResponseWriter, r *http.Request, grant *access.Grant, want stream.Want, wrong faults) {
	if err := wrong.err(); err != nil {
		fail(w, err)
		return
	}
	if r.Method == http.MethodHead {
		if err := a.refusal(r, grant, want); err != nil {
			fail(w, err)
			return
		}
		stream.Head(w)
		w.WriteHeader(http.StatusOK)
		return
	}
	watch, err := a.opts.Access.Watch(grant, a.opts.Address(r), want.Rooms...)
	if err != nil {
		fail(w, err)
		return
	}
	want.Ended = watch.Release
	if err := a.opts.Streams.Serve(w, r, want); err != nil {
		fail(w, err)
	}
}

// refusal is the error of a limit that keeps a stream from being opened; nil if none does.
func (a *API) refusal(r *http.Request, grant *access.Grant, want stream.Want) error {
	err := a.opts.Access.CanWatch(grant, a.opts.Address(r), want.Rooms...)
	if err == nil && want.Join != nil {
		err = a.replica.CanAttend(r.Context(), want.Rooms[0], want.Join.Connection)
	}
	if err == nil && a.full(r, want) {
		err = presence.ErrRoomFull
	}
	return err //nolint:wrapcheck // is what is answered
}

// full reports whether the room has no place for the user whom a stream is to join. It
// reports false while that is not known: then the stream is opened.
func (a *API) full(r *http.Request, want stream.Want) bool {
	if want.Join == nil || a.opts.MaxMembers == 0 {
		return false
	}
	views, err := a.rooms.Pick(r.Context(), []string{want.Join.Connection.User.ID}, want.Rooms[0])
	return err == nil && !views[0].Stale && len(views[0].Members) == 0 && views[0].Users >= a.opts.MaxMembers
}
