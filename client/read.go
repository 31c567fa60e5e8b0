package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Occupancy is the number of users and connections of a room.
type Occupancy struct {
	Room        string    `json:"room"`
	Users       int       `json:"users"`       // distinct users online
	Connections int       `json:"connections"` // their connections
	Version     int64     `json:"version"`     // rises with every change
	Stale       bool      `json:"stale"`       // Redis is away: the other fields are the last known ones
	AsOf        time.Time `json:"as_of"`       // when it was read
}

// RoomCount is a room of the list of rooms.
type RoomCount struct {
	Room        string `json:"room"`
	Users       int    `json:"users"`
	Connections int    `json:"connections"`
}

// Member is a user who is in a room.
type Member struct {
	User        string          `json:"user"` // the id
	Name        string          `json:"name"`
	Guest       bool            `json:"guest,omitempty"` // chose the name on a page: nothing proves who that is
	Meta        json.RawMessage `json:"meta,omitempty"`  // an object, or nil
	Connections int             `json:"connections"`
	Since       time.Time       `json:"since"`
}

// Reason is why a user is no longer in a room.
type Reason string

// The reasons.
const (
	ReasonLeft    Reason = "left"    // the user said so, or joined as another user
	ReasonClosed  Reason = "closed"  // the last socket or stream ended, and the grace passed
	ReasonTimeout Reason = "timeout" // nobody renewed the lease
	ReasonRemoved Reason = "removed" // a backend removed the user
)

// Leave is a user who is no longer in a room.
type Leave struct {
	User   string `json:"user"` // the id
	Reason Reason `json:"reason"`
}

// Change is one change of a room. Version, Users and Connections are those after the
// change. No user is in it twice.
type Change struct {
	Version     int64    `json:"version"`
	Users       int      `json:"users"`
	Connections int      `json:"connections"`
	Joins       []Member `json:"joins"`
	Updates     []Member `json:"updates"` // whose name, metadata or number of connections changed
	Leaves      []Leave  `json:"leaves"`
}

// pageSize is how many elements of a list are asked for at a time: the most that the API
// allows.
const pageSize = 1000

// Room returns the occupancy of a room. An empty room has 0 users.
func (c *Client) Room(ctx context.Context, room string) (o Occupancy, err error) {
	err = c.get(ctx, &o, nil, "rooms", room)
	return o, err
}

// Rooms yields the rooms whose names begin with prefix: rooms with users that the caller
// may see, each once, in the order of their names. The numbers are some seconds old. After
// an error it yields nothing more.
func (c *Client) Rooms(ctx context.Context, prefix string) iter.Seq2[RoomCount, error] {
	return list(func(cursor string) (page, error) {
		return c.page(ctx, cursor, url.Values{"prefix": {prefix}}, "rooms")
	}, func(p page) []RoomCount { return p.Rooms })
}

// Members yields the users of a room, each once. Users who come or go meanwhile may be
// missing. Up to 256 users come in the order of joining; more users come in no order. After
// an error it yields nothing more.
func (c *Client) Members(ctx context.Context, room string) iter.Seq2[Member, error] {
	all := list(func(cursor string) (page, error) {
		return c.page(ctx, cursor, url.Values{}, "rooms", room, "members")
	}, func(p page) []Member { return p.Members })
	return func(yield func(Member, error) bool) {
		seen := map[string]bool{} // while others leave, the server may list a user twice
		for m, err := range all {
			if seen[m.User] && err == nil {
				continue
			}
			seen[m.User] = true
			if !yield(m, err) {
				return
			}
		}
	}
}

// page is a page of a list.
type page struct {
	Rooms   []RoomCount `json:"rooms"`
	Members []Member    `json:"members"`
	Next    string      `json:"next"` // cursor of the next page; "": there is none
}

// page returns the page of a list that a cursor stands for; "" is the first.
func (c *Client) page(ctx context.Context, cursor string, query url.Values, segments ...string) (p page, err error) {
	query.Set("limit", strconv.Itoa(pageSize))
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	err = c.get(ctx, &p, query, segments...)
	return p, err
}

// list yields the elements of all pages.
func list[T any](get func(cursor string) (page, error), elements func(page) []T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for cursor := ""; ; {
			p, err := get(cursor)
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, one := range elements(p) {
				if !yield(one, nil) {
					return
				}
			}
			if cursor = p.Next; cursor == "" {
				return
			}
		}
	}
}

// Member returns one user of a room; a [*Problem] with [NotPresent] if the user is not
// there.
func (c *Client) Member(ctx context.Context, room, user string) (m Member, err error) {
	err = c.get(ctx, &m, nil, "rooms", room, "members", user)
	return m, err
}

// Changes yields the changes of a room since a version, up to now. After an error it yields
// nothing more. The error is a [*Problem] with [Gone] if the room's log no longer reaches
// back to the version: then read the room, and continue from its version.
func (c *Client) Changes(ctx context.Context, room string, after int64) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		for {
			var part struct {
				Version int64    `json:"version"`
				Changes []Change `json:"changes"`
			}
			query := url.Values{"after": {strconv.FormatInt(after, 10)}}
			if err := c.get(ctx, &part, query, "rooms", room, "changes"); err != nil {
				yield(Change{}, err)
				return
			}
			for _, change := range part.Changes {
				if !yield(change, nil) {
					return
				}
				after = change.Version
			}
			if len(part.Changes) == 0 || after >= part.Version {
				return
			}
		}
	}
}

// UserRooms says in which of the rooms of a query a user is.
type UserRooms struct {
	User  string   `json:"user"`
	Rooms []string `json:"rooms"`
}

// Found is the answer to a query, in the order in which it asked.
type Found struct {
	Rooms []Occupancy `json:"rooms"`
	Users []UserRooms `json:"users"`
}

// Query returns the occupancy of each of up to 100 rooms, and in which of these rooms each
// of up to 100 users is.
func (c *Client) Query(ctx context.Context, rooms, users []string) (f Found, err error) {
	body := struct {
		Rooms []string `json:"rooms"`
		Users []string `json:"users"`
	}{append([]string{}, rooms...), append([]string{}, users...)}
	_, err = c.call(ctx, http.MethodPost, body, &f, nil, "query")
	return f, err
}
