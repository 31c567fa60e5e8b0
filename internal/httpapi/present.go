package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"presence/internal/access"
	"presence/internal/presence"
	"presence/internal/store"
	"presence/internal/stream"
)

const (
	// maxPresent is the largest body of a request about one connection, in bytes.
	// maxHeartbeats is that of a request about many, at most maxRenewed.
	maxPresent    = 16 << 10
	maxHeartbeats = 512 << 10
	maxRenewed    = 1000

	// minTTL and maxTTL bound the lease that a request may ask for, in seconds.
	minTTL = 5
	maxTTL = 300

	// renewing is in how many rooms at a time a request renews connections.
	renewing = 16

	// patience bounds how long a change is tried again because others change the same user.
	patience = 5 * time.Second
)

// connection is the connection that the address of a request names.
type connection struct {
	room  string
	id    string // as it is stored
	grant *access.Grant
}

// connection reads the address of a request and, unless limit is 0, its body, which may have
// the given fields. If either is refused, it has answered. Mistakes in the id are among the
// faults of the body.
func (a *API) connection(w http.ResponseWriter, r *http.Request, limit int64, fields ...string) (c connection, o *object, ok bool) {
	if c.room, c.grant, ok = a.asked(w, r, access.Join); !ok {
		return c, nil, false
	}
	o = &object{}
	if limit > 0 {
		var err error
		if o, err = readObject(w, r, limit, fields...); err != nil {
			fail(w, err)
			return c, nil, false
		}
	}
	return c, o, a.identify(w, r, &c, o)
}

// identify finds out which of the speaker's connections the address of a request names. If
// the keys are not known yet, it has answered, and reports false.
func (a *API) identify(w http.ResponseWriter, r *http.Request, c *connection, o *object) bool {
	id := r.PathValue("connection")
	if presence.CheckID(id) != nil {
		o.faults.add("/connection", idRule)
		return true
	}
	keys, ok := a.opts.Keys(r.Context())
	if !ok {
		fail(w, presence.ErrUnavailable)
		return false
	}
	c.id = keys.SpeakerConnectionID(c.grant.Speaker, id)
	return true
}

// address returns the sender's address for limits; "" for API keys, which have no such
// limits.
func (a *API) address(r *http.Request, g *access.Grant) string {
	if g.Key {
		return ""
	}
	return a.opts.Address(r)
}

// Put serves PUT /v1/rooms/{room}/connections/{connection}, which joins a user for a
// while, or renews the connection.
func (a *API) Put(w http.ResponseWriter, r *http.Request) {
	c, o, ok := a.connection(w, r, maxPresent, "user", "name", "meta", "ttl")
	if !ok {
		return
	}
	want, err := a.wanted(r, c, o)
	if err != nil {
		fail(w, err)
		return
	}
	held, err := a.replica.Put(r.Context(), c.room, want)
	if err != nil {
		fail(w, err)
		return
	}
	a.rooms.Heard(c.room, held.Version)
	status := http.StatusOK
	if held.Came {
		status = http.StatusCreated
	}
	write(w, status, "application/json", struct {
		Room        string  `json:"room"`
		Connection  string  `json:"connection"`
		User        string  `json:"user"`
		ExpiresIn   seconds `json:"expires_in"`
		RenewIn     seconds `json:"renew_in"`
		Users       int     `json:"users"`
		Connections int     `json:"connections"`
		Version     int64   `json:"version"`
	}{
		c.room, r.PathValue("connection"), want.Connection.User.ID, seconds(want.TTL), seconds(want.TTL) / 3,
		held.Users, held.Connections, held.Version,
	})
}

// seconds is a time in seconds, written with up to three decimals.
type seconds time.Duration

// MarshalJSON writes the number, without a fraction if it has none.
func (s seconds) MarshalJSON() ([]byte, error) {
	return json.Marshal(float64(time.Duration(s).Round(time.Millisecond)) / float64(time.Second))
}

// wanted returns what a PUT asks for. The error is a [*mistake], or one of access or of
// the room.
func (a *API) wanted(r *http.Request, c connection, o *object) (store.Wanted, error) {
	user, err := o.user(c.grant)
	if err != nil {
		return store.Wanted{}, err
	}
	w := store.Wanted{SetName: o.has("name"), SetMeta: o.has("meta")}
	w.Connection = presence.Connection{
		ID: c.id, Address: a.address(r, c.grant), Until: c.grant.Expires,
		User: presence.User{ID: user, Name: o.name(), Meta: c.grant.Meta},
	}
	if err := o.nameAllowed(c.grant); err != nil {
		return w, err
	}
	if w.SetMeta {
		if w.Connection.User.Meta, err = encodeMeta(o.metadata()); err != nil {
			o.faults.add("/meta", metaRule)
		}
	}
	w.TTL = o.ttl(a.opts.MemberTTL)
	if !w.SetName && len(o.faults) == 0 {
		if w.Connection.User.Name, err = a.defaultName(r.Context(), c, user); err != nil {
			if !errors.As(err, new(*presence.NameError)) {
				return w, err
			}
			o.faults.add("/name", "This user is new here and needs a name: neither the token nor the user's id gives a legal one.")
		}
	}
	if err := o.faults.err(); err != nil {
		return w, err
	}
	w.TTL, err = within(c.grant, w.TTL)
	return w, err
}

// within shortens a lease that would outlive the sender's token. The error says that the
// token has expired.
func within(g *access.Grant, ttl time.Duration) (time.Duration, error) {
	if g.Expires.IsZero() {
		return ttl, nil
	}
	left := time.Until(g.Expires).Truncate(time.Millisecond)
	if left <= 0 {
		return 0, &access.Refusal{Kind: access.Unauthorized, Reason: access.ReasonExpiredToken, Detail: "This token has expired. Please get a new one."}
	}
	return min(ttl, left), nil
}

// user returns the user to join. The error is one of access.
func (o *object) user(g *access.Grant) (string, error) {
	known := len(o.faults)
	user := o.text("user")
	switch {
	case len(o.faults) > known:
	case o.has("user"):
		if err := g.CheckUser(user); err != nil {
			return "", err //nolint:wrapcheck // is what is answered
		}
		if presence.CheckID(user) != nil {
			o.faults.add("/user", idRule)
		}
	case g.Token:
		return g.User, nil
	default:
		o.faults.add("/user", "An API key speaks for all users: say which user is to be present.")
	}
	return user, nil
}

// nameAllowed returns an error of access if the sender may not give the user this name.
func (o *object) nameAllowed(g *access.Grant) error {
	var name string
	if o.has("name") && json.Unmarshal(o.fields["name"], &name) == nil {
		return g.CheckName(name) //nolint:wrapcheck // is what is answered
	}
	return nil
}

// defaultName returns the name of a user who joins without one: the token's, else the id.
// If that is no legal name, the user must be in the room already, and have a name. The
// error is a [*presence.NameError] or one of the room.
func (a *API) defaultName(ctx context.Context, c connection, user string) (string, error) {
	name, err := presence.CleanName(freeName(c.grant, user))
	if err == nil {
		return name, nil
	}
	views, away := a.rooms.Pick(ctx, []string{user}, c.room)
	switch {
	case away != nil:
		return "", away
	case len(views[0].Members) == 0:
		return "", err
	default:
		return views[0].Members[0].Name, nil
	}
}

// freeName is the default name of a user without a name.
func freeName(g *access.Grant, user string) string {
	if g.Name != "" {
		return g.Name
	}
	return user
}

// metaRule is the sentence that says which metadata are legal.
const metaRule = "It must be a JSON object of at most 1024 bytes in compact form."

// ttl returns the lease that a body asks for, or the default.
func (o *object) ttl(byDefault time.Duration) time.Duration {
	if !o.has("ttl") {
		return byDefault
	}
	var n float64
	if json.Unmarshal(o.fields["ttl"], &n) != nil || n != math.Trunc(n) || n < minTTL || n > maxTTL {
		o.faults.add("/ttl", fmt.Sprintf("It must be a whole number of seconds from %d to %d.", minTTL, maxTTL))
		return byDefault
	}
	return time.Duration(n) * time.Second
}

// Patch serves PATCH /v1/rooms/{room}/connections/{connection}: a user changes name or
// metadata, by a JSON merge patch (RFC 7396).
func (a *API) Patch(w http.ResponseWriter, r *http.Request) {
	c, o, ok := a.connection(w, r, maxPresent, "name", "meta")
	if !ok {
		return
	}
	name := o.name()
	if err := o.nameAllowed(c.grant); err != nil {
		fail(w, err)
		return
	}
	patch := o.metadata()
	if err := o.faults.err(); err != nil {
		fail(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	member, occupancy, err := a.replica.Update(ctx, c.room, c.id, func(user presence.User) (presence.User, error) {
		var wrong faults
		var err error
		switch {
		case o.has("name"):
			user.Name = name
		case o.isNull("name"):
			if user.Name, err = presence.CleanName(freeName(c.grant, user.ID)); err != nil {
				wrong.add("/name", "This user has no default name: neither the token nor the user's id gives a legal one.")
			}
		}
		switch {
		case o.has("meta"):
			meta, err := decodeMeta(user.Meta)
			if err == nil {
				user.Meta, err = encodeMeta(merge(meta, patch))
			}
			if err != nil {
				wrong.add("/meta", metaRule)
			}
		case o.isNull("meta"):
			user.Meta = ""
		}
		return user, wrong.err()
	})
	if err != nil {
		fail(w, err)
		return
	}
	a.rooms.Heard(c.room, occupancy.Version)
	answer(w, stream.MemberOf(member))
}

// Delete serves DELETE /v1/rooms/{room}/connections/{connection}, which leaves.
func (a *API) Delete(w http.ResponseWriter, r *http.Request) {
	c, o, ok := a.connection(w, r, 0)
	if !ok {
		return
	}
	a.end(w, r, c, o)
}

// end ends a connection, and answers.
func (a *API) end(w http.ResponseWriter, r *http.Request, c connection, o *object) {
	err := o.faults.err()
	if err == nil {
		var occupancy presence.Occupancy
		if occupancy, err = a.replica.End(r.Context(), c.room, c.id); err == nil {
			a.rooms.Heard(c.room, occupancy.Version)
		}
	}
	if err != nil {
		fail(w, err)
		return
	}
	done(w)
}

// done answers 204: the request has been carried out.
func done(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

// Leave serves POST /v1/rooms/{room}/connections/{connection}/leave, which does the same as
// DELETE. A browser that leaves a page can send only a POST without headers. So the token
// may be in the body, which may also be empty.
func (a *API) Leave(w http.ResponseWriter, r *http.Request) {
	c := connection{room: r.PathValue("room")}
	if err := presence.CheckRoom(c.room); err != nil {
		Problem(w, NoSuchRoom, err.Error())
		return
	}
	var err error
	if c.grant, err = a.opts.Access.Grant(r, false); err != nil {
		fail(w, err)
		return
	}
	o, unread := readBeacon(w, r)
	if unread == nil && o.has("token") && c.grant.Speaker == "" {
		if c.grant, err = a.opts.Access.Token(o.text("token")); err != nil {
			fail(w, err)
			return
		}
	}
	if err = c.grant.Need(access.Join, c.room); err == nil {
		err = unread
	}
	if err != nil {
		fail(w, err)
		return
	}
	if a.identify(w, r, &c, o) {
		a.end(w, r, c, o)
	}
}

// readBeacon reads the body of a leave.
func readBeacon(w http.ResponseWriter, r *http.Request) (*object, error) {
	body, err := readBody(w, r, maxPresent)
	if err != nil || len(bytes.TrimSpace(body)) == 0 {
		return &object{}, err
	}
	return newObject(body, "token")
}

// seat is a connection in a room, as a request names it.
type seat struct {
	Room       string `json:"room"`
	Connection string `json:"connection"`
}

// Heartbeats serves POST /v1/heartbeats, which renews many connections.
func (a *API) Heartbeats(w http.ResponseWriter, r *http.Request) {
	g, err := a.opts.Access.Grant(r, false)
	if err == nil {
		err = g.NeedSpeaker()
	}
	if err != nil {
		fail(w, err)
		return
	}
	o, err := readObject(w, r, maxHeartbeats, "ttl", "connections")
	if err != nil {
		fail(w, err)
		return
	}
	ttl, seats := o.ttl(a.opts.MemberTTL), o.seats()
	if err = o.faults.err(); err == nil {
		ttl, err = within(g, ttl)
	}
	if err != nil {
		fail(w, err)
		return
	}
	keys, ok := a.opts.Keys(r.Context())
	if !ok {
		fail(w, presence.ErrUnavailable)
		return
	}
	there, err := a.renew(r, g, keys, seats, ttl)
	if err != nil {
		fail(w, err)
		return
	}
	reply := struct {
		Renewed int     `json:"renewed"`
		RenewIn seconds `json:"renew_in"`
		Lost    []seat  `json:"lost"`
	}{0, seconds(ttl) / 3, []seat{}}
	for _, s := range seats {
		if there[s] {
			reply.Renewed++
		} else {
			reply.Lost = append(reply.Lost, s)
		}
	}
	answer(w, reply)
}

// seats returns the connections that are to be renewed.
func (o *object) seats() []seat {
	var raw []json.RawMessage
	if !o.has("connections") || json.Unmarshal(o.fields["connections"], &raw) != nil {
		o.faults.add("/connections", `It must be a list such as [{"room":"lobby","connection":"c1"}].`)
		return nil
	}
	if len(raw) > maxRenewed {
		o.faults.add("/connections", fmt.Sprintf("It may have at most %d elements.", maxRenewed))
		return nil
	}
	seats := make([]seat, len(raw))
	for i, text := range raw {
		at := fmt.Sprintf("/connections/%d", i)
		one, err := newObject(text, "room", "connection")
		if err != nil {
			o.faults.add(at, `It must be an object such as {"room":"lobby","connection":"c1"}.`)
			continue
		}
		seats[i] = seat{one.text("room"), one.text("connection")}
		for _, f := range one.faults {
			o.faults.add(at+f.Pointer, f.Detail)
		}
		if len(one.faults) > 0 {
			continue
		}
		if presence.CheckRoom(seats[i].Room) != nil {
			o.faults.add(at+"/room", roomRule)
		}
		if presence.CheckID(seats[i].Connection) != nil {
			o.faults.add(at+"/connection", idRule)
		}
	}
	return seats
}

// renew renews connections, each once, and returns those that are there. Connections in
// rooms that the sender may not join count as missing.
func (a *API) renew(r *http.Request, g *access.Grant, keys presence.Keys, seats []seat, ttl time.Duration) (map[seat]bool, error) {
	rooms := map[string][]seat{}
	once := map[seat]bool{}
	for _, s := range seats {
		if !once[s] && g.May(access.Join, s.Room) {
			once[s] = true
			rooms[s.Room] = append(rooms[s.Room], s)
		}
	}
	type renewed struct {
		seats []seat
		found []presence.Connection
	}
	results := make(chan renewed, len(rooms))
	group, ctx := errgroup.WithContext(r.Context())
	group.SetLimit(renewing)
	for name, seats := range rooms {
		group.Go(func() error {
			ids := make([]string, len(seats))
			for i, s := range seats {
				ids[i] = keys.SpeakerConnectionID(g.Speaker, s.Connection)
			}
			found, err := a.replica.Renew(ctx, name, ids, ttl, a.address(r, g), g.Expires)
			results <- renewed{seats, found}
			return err //nolint:wrapcheck // says what was tried
		})
	}
	err := group.Wait()
	close(results)
	there := map[seat]bool{}
	for result := range results {
		for i, c := range result.found {
			there[result.seats[i]] = c.ID != ""
		}
	}
	return there, err //nolint:wrapcheck // likewise
}

// Remove serves DELETE /v1/rooms/{room}/members/{user}, which ends all connections of a
// user. The user's pages and streams do not join again by themselves.
func (a *API) Remove(w http.ResponseWriter, r *http.Request) {
	name, _, ok := a.asked(w, r, access.Remove)
	if !ok {
		return
	}
	user := r.PathValue("user")
	if presence.CheckID(user) != nil {
		fail(w, invalid(Fault{"/user", idRule}))
		return
	}
	occupancy, err := a.replica.Remove(r.Context(), name, user)
	if err != nil {
		fail(w, err)
		return
	}
	a.rooms.Heard(name, occupancy.Version)
	done(w)
}
