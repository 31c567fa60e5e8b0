package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"presence/internal/access"
	"presence/internal/forwarded"
	"presence/internal/presence"
	"presence/internal/store"
	"presence/internal/stream"
)

const (
	// maxEventRooms is how many rooms one stream may tell of.
	maxEventRooms = 50

	// maxVersion is beyond all versions: integers that JavaScript can tell apart.
	maxVersion = 1 << 53
)

// Events serves event streams.
type Events struct {
	streams *stream.Streams
	access  *access.Access
	keys    func() presence.Keys
}

// NewEvents returns the streams, for those whom access lets watch and join. keys derive
// the ids of connections.
func NewEvents(streams *stream.Streams, access *access.Access, keys func() presence.Keys) *Events {
	return &Events{streams: streams, access: access, keys: keys}
}

// Room serves GET /v1/rooms/{room}/events.
func (e *Events) Room(w http.ResponseWriter, r *http.Request) {
	name, query := r.PathValue("room"), r.URL.Query()
	grant, ok := e.grant(w, r, name)
	if !ok {
		return
	}
	if query.Has("join") {
		if err := grant.Need(access.Join, name); err != nil {
			refuse(w, err)
			return
		}
	}
	want := stream.Want{Rooms: []string{name}, Until: grant.Expires}
	var faults []Fault
	want.Counts, faults = countsOnly(query)
	want.After, faults = after(r, query, faults)
	if query.Has("join") {
		var err error
		if want.Join, faults, err = e.join(r, grant, query, faults); err != nil {
			refuse(w, err)
			return
		}
	}
	e.serve(w, r, grant, want, faults)
}

// Rooms serves GET /v1/events?rooms=a,b.
func (e *Events) Rooms(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	var rooms []string
	for _, list := range query["rooms"] {
		for name := range strings.SplitSeq(list, ",") {
			if !slices.Contains(rooms, name) && len(rooms) <= maxEventRooms && list != "" {
				rooms = append(rooms, name)
			}
		}
	}
	grant, ok := e.grant(w, r, rooms...)
	if !ok {
		return
	}
	want := stream.Want{Rooms: rooms, Several: true, Until: grant.Expires}
	var faults []Fault
	want.Counts, faults = countsOnly(query)
	if len(rooms) == 0 || len(rooms) > maxEventRooms {
		faults = append(faults, Fault{"/rooms", fmt.Sprintf("Please name 1 to %d rooms, with commas between them.", maxEventRooms)})
	}
	if query.Has("join") {
		faults = append(faults, Fault{"/join", "Only a stream of one room can join it: use /v1/rooms/ROOM/events."})
	}
	e.serve(w, r, grant, want, faults)
}

// grant returns what the sender of r may do, who may observe rooms; else it has
// answered.
func (e *Events) grant(w http.ResponseWriter, r *http.Request, rooms ...string) (*access.Grant, bool) {
	for _, name := range rooms {
		if err := presence.CheckRoom(name); err != nil {
			Problem(w, NoSuchRoom, err.Error())
			return nil, false
		}
	}
	grant, err := e.access.Grant(r, true) // of HEAD, too, which is GET without a body
	for i := 0; err == nil && i < len(rooms); i++ {
		err = grant.Need(access.Observe, rooms[i])
	}
	if err != nil {
		refuse(w, err)
		return nil, false
	}
	return grant, true
}

// refuse answers for an error of access.
func refuse(w http.ResponseWriter, err error) {
	if refusal := (*access.Refusal)(nil); errors.As(err, &refusal) {
		Refuse(w, refusal)
		return
	}
	Problem(w, Unauthorized, "The credentials can't be used.")
}

// countsOnly reports whether only numbers are wanted.
func countsOnly(query url.Values) (bool, []Fault) {
	switch mode := query.Get("mode"); {
	case mode == "count":
		return true, nil
	case !query.Has("mode"):
		return false, nil
	default:
		return false, []Fault{{"/mode", "The only mode that can be asked for is count."}}
	}
}

// after returns the version that the client has. What EventSource sends by itself may be
// anything, and wins.
func after(r *http.Request, query url.Values, faults []Fault) (int64, []Fault) {
	version := func(text string) (int64, bool) {
		v, err := strconv.ParseInt(text, 10, 64)
		return v, err == nil && v >= 0 && v < maxVersion
	}
	asked, ok := version(query.Get("after"))
	if query.Has("after") && !ok {
		faults = append(faults, Fault{"/after", "Please give the version of a room, as events and answers have it."})
	}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		last, ok := version(id)
		if !ok {
			return 0, faults
		}
		return last, faults
	}
	return asked, faults
}

// join returns who is to be present by the stream. The error is that of access.
func (e *Events) join(r *http.Request, grant *access.Grant, query url.Values, faults []Fault) (*store.Wanted, []Fault, error) {
	bad := func(pointer, detail string) { faults = append(faults, Fault{pointer, detail}) }
	id, user, name := query.Get("join"), query.Get("user"), query.Get("name")
	w := &store.Wanted{SetName: query.Has("name")}
	if grant.Token {
		if query.Has("user") {
			if err := grant.CheckUser(user); err != nil {
				return nil, nil, err
			}
		}
		if w.SetName {
			if err := grant.CheckName(name); err != nil {
				return nil, nil, err
			}
		}
		user = grant.User
	}
	if err := presence.CheckID(id); err != nil {
		bad("/join", err.Error())
	}
	if err := presence.CheckID(user); err != nil {
		bad("/user", err.Error())
	}
	if !w.SetName {
		if name = grant.Name; name == "" {
			name = user
		}
	}
	name, err := presence.CleanName(name)
	if refused := (*presence.NameError)(nil); errors.As(err, &refused) {
		bad("/name", refused.Reason)
	}
	w.Connection.ID = e.keys().SpeakerConnectionID(grant.Speaker, id)
	w.Connection.User = presence.User{ID: user, Name: name, Meta: grant.Meta}
	if !grant.Key {
		w.Connection.Address = forwarded.ClientKey(r)
	}
	return w, faults, nil
}

// serve opens the stream that is wanted.
func (e *Events) serve(w http.ResponseWriter, r *http.Request, grant *access.Grant, want stream.Want, faults []Fault) {
	if len(faults) > 0 {
		Problem(w, Invalid, faults[0].Detail, faults...)
		return
	}
	if r.Method == http.MethodHead {
		stream.Head(w)
		w.WriteHeader(http.StatusOK)
		return
	}
	watch, err := e.access.Watch(grant, forwarded.ClientKey(r), want.Rooms...)
	if err != nil {
		refuse(w, err)
		return
	}
	want.Ended = watch.Release
	switch err = e.streams.Serve(w, r, want); {
	case err == nil:
	case errors.Is(err, presence.ErrRoomFull):
		Problem(w, RoomFull, "The room has as many users as it may have. Please try again later.")
	case errors.Is(err, presence.ErrTooManyRooms):
		Problem(w, TooManyRooms, "There are as many rooms as there may be. Please try again later.")
	case errors.Is(err, presence.ErrAddressRooms):
		Problem(w, TooManyRooms, "People from this address are in as many rooms as they may be.")
	case errors.Is(err, presence.ErrAddressMembers):
		Problem(w, RoomFull, "As many are present from this address as may be.")
	default:
		Problem(w, Unavailable, "No stream can be opened now. Please try again.")
	}
}
