package client

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

const (
	// minPatience and patience bound how long one renewal may take: as long as the time
	// between two renewals, within these bounds.
	minPatience = 2 * time.Second
	patience    = 10 * time.Second

	// minWait is the shortest time between two renewals: renewals of a lease that ends with
	// its token come closer and closer.
	minWait = time.Second
)

// Presence is the user to put into a room, and for how long without renewal.
type Presence struct {
	// User is the id; with a token it may be "".
	User string

	// Name is what others see; "" leaves it as it is. A new user without a name gets the
	// token's name, else the id.
	Name string

	// Meta is a JSON object of at most 1,024 bytes; nil leaves it as it is.
	Meta json.RawMessage

	// TTL is for how long the user counts without being renewed: whole seconds, 5 to 300;
	// 0 is the server's member TTL.
	TTL time.Duration
}

// Lease says how long a connection counts.
type Lease struct {
	Occupancy // of the room, with Room, Users, Connections and Version

	Connection string
	User       string

	// ExpiresIn is how long the user counts without renewal. RenewIn is when to renew.
	ExpiresIn, RenewIn time.Duration

	// Came says that the connection was not there before.
	Came bool
}

// Put puts a user into a room through a connection, or renews the connection. The
// connection counts until its lease ends, so the caller has to renew it in time;
// [Client.Join] does that by itself. The caller chooses the name of the connection, and may
// repeat a Put at will.
func (c *Client) Put(ctx context.Context, room, connection string, p Presence) (Lease, error) {
	body := struct {
		User string          `json:"user,omitempty"`
		Name string          `json:"name,omitempty"`
		Meta json.RawMessage `json:"meta,omitempty"`
		TTL  float64         `json:"ttl,omitempty"`
	}{p.User, p.Name, p.Meta, p.TTL.Seconds()}
	var answer struct {
		Occupancy

		Connection string  `json:"connection"`
		User       string  `json:"user"`
		ExpiresIn  seconds `json:"expires_in"`
		RenewIn    seconds `json:"renew_in"`
	}
	came, err := c.call(ctx, http.MethodPut, body, &answer, nil, "rooms", room, "connections", connection)
	return Lease{answer.Occupancy, answer.Connection, answer.User, answer.ExpiresIn.duration(), answer.RenewIn.duration(), came}, err
}

// seconds is a time as answers have it.
type seconds float64

func (s seconds) duration() time.Duration { return time.Duration(float64(s) * float64(time.Second)) }

// Patch changes a user's name and metadata.
type Patch struct {
	// Name is the new name; "" is the default name, and nil leaves it.
	Name *string

	// Meta is a JSON merge patch (RFC 7396) of the metadata; nil leaves them.
	Meta json.RawMessage
}

// Update changes the name or the metadata of the user of a connection, and returns the
// member. The error is a [*Problem] with [NotPresent] if there is no such connection.
func (c *Client) Update(ctx context.Context, room, connection string, p Patch) (m Member, err error) {
	body := map[string]any{}
	switch {
	case p.Name == nil:
	case *p.Name == "":
		body["name"] = nil
	default:
		body["name"] = *p.Name
	}
	if p.Meta != nil {
		body["meta"] = p.Meta
	}
	_, err = c.call(ctx, http.MethodPatch, body, &m, nil, "rooms", room, "connections", connection)
	return m, err
}

// Leave ends a connection at once. It is no error if the connection was not there.
func (c *Client) Leave(ctx context.Context, room, connection string) error {
	_, err := c.call(ctx, http.MethodDelete, nil, nil, nil, "rooms", room, "connections", connection)
	return err
}

// Remove ends all connections of a user in a room. The user's pages and streams are told,
// and do not join again by themselves. It needs an API key.
func (c *Client) Remove(ctx context.Context, room, user string) error {
	_, err := c.call(ctx, http.MethodDelete, nil, nil, nil, "rooms", room, "members", user)
	return err
}

// Place names a connection in a room.
type Place struct {
	Room       string `json:"room"`
	Connection string `json:"connection"`
}

// Renewed is the result of [Client.Heartbeats].
type Renewed struct {
	Renewed int           // number of connections that were renewed
	RenewIn time.Duration // after how long to renew them again
	Lost    []Place       // connections that do not exist; Put joins again
}

// Heartbeats renews up to 1,000 connections, each for ttl; 0 is the server's member TTL.
func (c *Client) Heartbeats(ctx context.Context, ttl time.Duration, places ...Place) (Renewed, error) {
	body := struct {
		TTL         float64 `json:"ttl,omitempty"`
		Connections []Place `json:"connections"`
	}{ttl.Seconds(), append([]Place{}, places...)}
	var answer struct {
		Renewed int     `json:"renewed"`
		RenewIn seconds `json:"renew_in"`
		Lost    []Place `json:"lost"`
	}
	_, err := c.call(ctx, http.MethodPost, body, &answer, nil, "heartbeats")
	return Renewed{answer.Renewed, answer.RenewIn.duration(), answer.Lost}, err
}

// ErrEnded is the error of a [Connection] that this program did not end: the user was
// removed, or another program has ended the connection.
var ErrEnded = errors.New("presence client: the connection was ended by somebody else")

// Connection is a user's connection to a room, which this program renews.
type Connection struct {
	client *Client
	place  Place

	stop   chan struct{} // holds one: Leave was called
	cancel context.CancelFunc
	done   chan struct{}

	err error // written by the goroutine that renews, to be read when it is done

	mu       sync.Mutex // guards:
	presence Presence   // as it was changed last
}

// Join puts a user into a room, as [Client.Put] does, and renews the lease until
// [Connection.Leave]. When ctx ends, it stops renewing, and the user leaves when the lease
// ends; to leave at once call Leave with another context. A renewal that fails is tried
// again. If the lease ran out meanwhile, the user joins anew.
func (c *Client) Join(ctx context.Context, room, connection string, p Presence) (*Connection, error) {
	began := time.Now()
	lease, err := c.Put(ctx, room, connection, p)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	j := &Connection{
		client: c, place: Place{room, connection},
		stop: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}), presence: p,
	}
	go func() {
		defer close(j.done)
		defer cancel()
		j.err = j.renew(ctx, began, lease)
	}()
	return j, nil
}

// Done is closed when the connection is no longer renewed.
func (j *Connection) Done() <-chan struct{} { return j.done }

// Err returns, after Done, why the connection is no longer renewed: nil after Leave, the
// error of the context of [Client.Join], [ErrEnded], or a [*Problem]. Before, it is nil.
func (j *Connection) Err() error {
	select {
	case <-j.done:
		return j.err
	default:
		return nil
	}
}

// Update changes the user's name or metadata, as [Client.Update] does.
func (j *Connection) Update(ctx context.Context, p Patch) (Member, error) {
	m, err := j.client.Update(ctx, j.place.Room, j.place.Connection, p)
	if err != nil {
		return m, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.presence.Name, j.presence.Meta = m.Name, m.Meta // to join with, should the lease run out
	if m.Meta == nil {
		j.presence.Meta = json.RawMessage("{}")
	}
	return m, nil
}

// known is the user to join again with, as last changed.
func (j *Connection) known() Presence {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.presence
}

// Leave ends the connection. It may be called again, such as after an error.
func (j *Connection) Leave(ctx context.Context) error {
	select {
	case j.stop <- struct{}{}:
	default:
	}
	select { // a renewal under way might join after this has left
	case <-j.done:
	case <-ctx.Done():
		j.cancel()
		<-j.done
	}
	return j.client.Leave(ctx, j.place.Room, j.place.Connection)
}

// renew renews the lease, which began at an instant, again and again. It returns why it
// stopped.
func (j *Connection) renew(ctx context.Context, asked time.Time, lease Lease) error {
	until, wait := asked.Add(lease.ExpiresIn), lease.RenewIn
	missing := false
	for tries := 0; ; {
		timer := time.NewTimer(max(wait-rand.N(wait/4+1), minWait))
		select {
		case <-timer.C:
		case <-j.stop:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		asked = time.Now()
		over := asked.After(until)
		renewIn, there, err := j.try(ctx, min(patience, max(wait, minPatience)), over && !missing)
		problem, refused := errors.AsType[*Problem](err)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case refused && problem.Retry == RetryNever:
			return err
		case err != nil:
			wait = min(minWait<<min(tries, 10), max(lease.RenewIn, minWait))
			if refused {
				wait = max(wait, problem.RetryAfter)
			}
			tries++
			continue
		case there:
			until = asked.Add(3 * renewIn)
		case over: // it was missing before the lease could have run out
			return ErrEnded
		}
		// Redis may have lost the missing connection, and a replica may put it back soon.
		missing, wait, tries = !there, renewIn, 0
	}
}

// try renews the lease once, or joins again if there is none and that is wanted. It
// reports whether there is a lease afterwards.
func (j *Connection) try(ctx context.Context, limit time.Duration, again bool) (renewIn time.Duration, there bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	known := j.known()
	r, err := j.client.Heartbeats(ctx, known.TTL, j.place)
	if err != nil || r.Renewed > 0 || !again {
		return r.RenewIn, r.Renewed > 0, err
	}
	lease, err := j.client.Put(ctx, j.place.Room, j.place.Connection, known)
	return lease.RenewIn, err == nil, err
}
