package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// silence is how long a stream may be silent. The server promises to send something
	// three times as often.
	silence = 45 * time.Second

	// defaultRetry is the first wait between two tries if no server has said another time.
	// maxRetry is the longest wait.
	defaultRetry = 2 * time.Second
	maxRetry     = 30 * time.Second
)

// errSilent is the error for a stream that was silent for too long.
var errSilent = errors.New("presence client: nothing was heard of the stream for " + silence.String())

// errRenewal is the error for a stream that ends so that the next one has a new token.
var errRenewal = errors.New("presence client: the token is renewed")

// WatchOptions say how to watch a room. With the zero value all events come.
type WatchOptions struct {
	// CountsOnly leaves out the members: all events are counts.
	CountsOnly bool

	// After is the version of the room that the caller has; 0: it has none. The stream begins
	// with the changes since then, or with a snapshot.
	After int64

	// Join, if not "", is the connection by which a user is present as long as the room
	// is watched, and for the server's leave grace after that. User and Name are those of
	// the user; with a token they may be "". A Name is set each time the stream begins anew.
	// Without one the user keeps the name, or gets one as by [Client.Put].
	Join, User, Name string

	// Lost, if not nil, is called when a stream was lost or could not be opened, with the
	// reason and the wait before the next try.
	Lost func(err error, wait time.Duration)
}

// Watch yields the events of a room: a snapshot, then every change. A [View] applies them.
// When the stream ends or breaks, Watch opens another that continues from there, until the
// loop over it ends.
//
// After an error it yields nothing more. The error is that of ctx if ctx ends, an
// [*EndError] if the server has ended the stream for good, or a [*Problem] if the server
// refuses another stream. After other failures Watch tries again. It reads nothing while
// the loop body runs: a slow caller gets a snapshot in place of the changes it missed.
func (c *Client) Watch(ctx context.Context, room string, o WatchOptions) iter.Seq2[Event, error] {
	query := url.Values{}
	if o.CountsOnly {
		query.Set("mode", "count")
	}
	for name, value := range map[string]string{"join": o.Join, "user": o.User, "name": o.Name} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return c.watch(ctx, o, query, "rooms", room, "events")
}

// WatchRooms is [Client.Watch] of up to 50 rooms by one stream. Join and After can't be
// used: each room begins with a snapshot, also when the stream begins anew.
func (c *Client) WatchRooms(ctx context.Context, rooms []string, o WatchOptions) iter.Seq2[Event, error] {
	query := url.Values{"rooms": {strings.Join(rooms, ",")}}
	if o.CountsOnly {
		query.Set("mode", "count")
	}
	o.After = 0
	return c.watch(ctx, o, query, "events")
}

// watch yields the events of one stream after the other.
func (c *Client) watch(ctx context.Context, o WatchOptions, query url.Values, segments ...string) iter.Seq2[Event, error] {
	address, err := c.url(query, segments...)
	return func(yield func(Event, error) bool) {
		if err != nil {
			yield(Event{}, err)
			return
		}
		w := &watch{client: c, address: address, retry: defaultRetry, yield: yield}
		if o.After > 0 {
			w.last = strconv.FormatInt(o.After, 10)
		}
		for tries := 0; ; tries++ {
			lived, err := w.stream(ctx)
			if lived {
				tries = 0
			}
			switch {
			case errors.Is(err, errDone):
				return
			case ctx.Err() != nil:
				yield(Event{}, ctx.Err())
				return
			case w.final(ctx, err):
				yield(Event{}, err)
				return
			}
			if errors.Is(err, errRenewal) {
				continue
			}
			wait := w.wait(err, lived, tries)
			if o.Lost != nil {
				o.Lost(err, wait)
			}
			if !sleep(ctx, wait) {
				yield(Event{}, ctx.Err())
				return
			}
		}
	}
}

// watch is one call of Watch or WatchRooms, with one stream after the other.
type watch struct {
	client  *Client
	address string
	yield   func(Event, error) bool

	last       string        // id of the last event, to continue from; "": begin with a snapshot
	retry      time.Duration // wait before the next stream, as the server said
	credential string        // of the last stream
}

// errDone ends a stream whose caller has ended the loop.
var errDone = errors.New("done")

// stream yields the events of one stream, and reports whether it lived: whether it brought
// an event, or lasted for a while. The error is never nil.
func (w *watch) stream(ctx context.Context) (lived bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	body, err := w.open(ctx)
	if err != nil {
		return false, lost(ctx, err)
	}
	defer body.Close() //nolint:errcheck // nothing is written
	opened := time.Now()
	if life := lifeOf(w.credential, opened); life > 0 && w.client.opts.Token != nil {
		// A user who has joined leaves when the token expires.
		renewal := time.AfterFunc(max(life*3/4, time.Second), func() { cancel(errRenewal) })
		defer renewal.Stop()
	}
	in := newReader(body, func() { watchdog.Reset(silence) })
	for {
		kind, data, err := in.next()
		if in.retry > 0 {
			w.retry = in.retry
		}
		lived = lived || time.Since(opened) >= w.retry
		if err != nil {
			return lived, lost(ctx, err)
		}
		if kind == "end" {
			end := &EndError{}
			if err := json.Unmarshal(data, end); err != nil {
				return lived, fmt.Errorf("presence client: read the end of a stream: %w", err)
			}
			return lived, end
		}
		e, known, err := parse(kind, data)
		if err != nil {
			return lived, err
		}
		if known {
			watchdog.Stop() // the loop body may take long
			if !w.yield(e, nil) {
				return true, errDone
			}
			watchdog.Reset(silence)
			lived = true
		}
		switch {
		case e.Stale: // if the room did not change, a resumed stream would not say that it is no longer stale
			w.last = ""
		case in.id != "":
			w.last = in.id
		}
	}
}

// lost returns why a stream could not be opened or read: err, unless it was given up here.
func lost(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) || errors.Is(cause, errRenewal) {
		return cause
	}
	return err
}

// lifeOf is how long a token is valid from now on, by the clock of this machine; 0 if the
// token does not say it.
func lifeOf(token string, now time.Time) time.Duration {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0
	}
	var claims struct {
		Expires float64 `json:"exp"`
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(text, &claims) != nil {
		return 0
	}
	left := claims.Expires - float64(now.UnixMilli())/1000
	return time.Duration(min(max(left, 0), 1e9) * float64(time.Second))
}

// open opens a stream.
func (w *watch) open(ctx context.Context) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.address, nil)
	if err != nil {
		return nil, fmt.Errorf("presence client: %w", err)
	}
	r.Header.Set("Accept", "text/event-stream")
	if w.last != "" {
		r.Header.Set("Last-Event-ID", w.last)
	}
	if w.credential, err = w.client.credential(ctx); err != nil {
		return nil, err
	}
	resp, err := w.client.send(w.client.streams, r, w.credential)
	if err != nil {
		return nil, err
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != "text/event-stream" {
		_ = resp.Body.Close()
		return nil, &Problem{
			Title: "This is no event stream", Status: resp.StatusCode, Retry: RetryNever,
			Detail: "What answers at this address is no presence server.",
		}
	}
	return resp.Body, nil
}

// final reports whether another stream would end in the same way.
func (w *watch) final(ctx context.Context, err error) bool {
	if end, ok := errors.AsType[*EndError](err); ok {
		if end.Code == TokenExpired && w.client.opts.Token != nil {
			token, err := w.client.credential(ctx)
			return err == nil && token == w.credential
		}
		return end.Retry == RetryNever
	}
	problem, ok := errors.AsType[*Problem](err)
	return ok && problem.Retry == RetryNever
}

// wait returns how long to wait after a stream that ended with err. tries is how many
// streams before it did not live.
func (w *watch) wait(err error, lived bool, tries int) time.Duration {
	end, ok := errors.AsType[*EndError](err)
	if ok && lived && end.Retry != RetryBackoff {
		return 0
	}
	most := min(w.retry<<min(tries, 10), max(w.retry, maxRetry))
	wait := most/2 + rand.N(most/2+1)
	if problem, ok := errors.AsType[*Problem](err); ok {
		wait = max(wait, problem.RetryAfter)
	}
	return wait
}

// sleep waits, and reports false if ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
