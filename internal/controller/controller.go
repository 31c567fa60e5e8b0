package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/livetemplate/livetemplate"
	"github.com/prometheus/client_golang/prometheus"

	"presence/internal/live"
	"presence/internal/presence"
	"presence/internal/replica"
	"presence/internal/room"
	"presence/internal/store"
)

const (
	// actionTimeout is how long a visitor waits at most after pressing a button. So an
	// answer comes within 2 s, even if it is that nothing happened.
	actionTimeout = 1800 * time.Millisecond

	// formTimeout is the part of actionTimeout for reading what surrounds the answer to a
	// form.
	formTimeout = actionTimeout / 3

	// loadTimeout is how long a page waits at most before it shows what is known.
	// Replicas need less time to put back what Redis lost.
	loadTimeout = 4 * time.Second

	// rendersPerProcessor limits how many pages are rendered at a time. It keeps the
	// processors busy, and makes other goroutines wait for one only some milliseconds.
	rendersPerProcessor = 8

	// retryResume is the wait between two attempts to resume.
	retryResume = 100 * time.Millisecond
)

// Keys of the flashes that the page shows until they are cleared.
const (
	flashName   = "nameerr" // what is wrong with the name
	flashNotice = "notice"  // another message
	flashTyped  = "typed"   // the name that was refused
)

// flashes lists all keys.
func flashes() []string { return []string{flashName, flashNotice, flashTyped} }

// errNoVisit is the error for a request that did not come through Handler. That would be
// a mistake in the wiring of the server.
var errNoVisit = errors.New("the request does not belong to a visit")

// errStranger is the error for a join while the server does not know the shared secret.
var errStranger = fmt.Errorf("%w: browsers can't be told apart yet", presence.ErrUnavailable)

// Options are the settings of a [Controller].
type Options struct {
	// Keys returns the keys that make the ids of users and connections.
	Keys func() presence.Keys

	// Replica and Backend are shown at the foot of the page.
	Replica string
	Backend string

	// Home is the address to which the name of the site links.
	Home string

	// Origin returns the origin of the page that a request asks for, such as
	// https://example.org. If it is nil, the origin is not known.
	Origin func(*http.Request) string

	// Refresh is how often a page without JavaScript reloads itself. The reload is its
	// heartbeat.
	Refresh time.Duration

	// MemberTTL is how long such a page counts without a reload; 0 means the store's
	// default.
	MemberTTL time.Duration

	// Guard gives a cookie of a response the attributes that all our cookies have; nil
	// means none.
	Guard func(*http.Request, *http.Cookie)

	// Address returns the sender's address in the form that limits count; nil means that
	// all share one address. Allow reports whether the sender may now join once more
	// without a socket; nil means always.
	Address func(*http.Request) string
	Allow   func(*http.Request) bool

	// Pages are pages of the same template, or nil. With them the template need not be
	// examined again.
	Pages *live.Pages

	// Sockets opens the sockets of visits, and gives each to [Attach].
	Sockets livetemplate.WSUpgrader

	// Logger and Registerer: nil means no logs, no metrics.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Controller is the page of every room, shared by all visits.
type Controller struct {
	replica *replica.Replica
	rooms   *room.Rooms
	opts    Options
	log     *slog.Logger
	live    livetemplate.LiveHandler
	pages   *live.Pages
	visits  sync.Map // id -> *visit, for open sockets
	open    sync.WaitGroup
	upgrade *http.Request // see newUpgrade; never changed

	metrics   metrics
	rendering chan struct{} // holds one token for each page that has a turn to be rendered
}

// New returns the controller of the pages of rooms. rep keeps the members.
func New(rep *replica.Replica, rooms *room.Rooms, opts Options) *Controller {
	if opts.MemberTTL == 0 {
		opts.MemberTTL = store.DefaultMemberTTL
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Guard == nil {
		opts.Guard = func(*http.Request, *http.Cookie) {}
	}
	if opts.Address == nil {
		opts.Address = func(*http.Request) string { return "" }
	}
	if opts.Origin == nil {
		opts.Origin = func(*http.Request) string { return "" }
	}
	if opts.Allow == nil {
		opts.Allow = func(*http.Request) bool { return true }
	}
	return &Controller{
		replica: rep, rooms: rooms, opts: opts, log: opts.Logger, upgrade: newUpgrade(),
		metrics:   newMetrics(opts.Registerer),
		rendering: make(chan struct{}, rendersPerProcessor*runtime.GOMAXPROCS(0)),
	}
}

// LiveHandler returns the livetemplate handler of page, which is the template of a room. Call
// it once, before the first visit.
func (c *Controller) LiveHandler(page *livetemplate.Template, opts ...livetemplate.HandleOption) (livetemplate.LiveHandler, error) {
	if c.opts.Pages != nil {
		c.pages = c.opts.Pages.Empty(c.log)
	} else {
		var err error
		if c.pages, err = live.New(page, LiveOptions(c.log)); err != nil {
			return nil, fmt.Errorf("the page of a room: %w", err)
		}
	}
	c.live = page.Handle(c, livetemplate.AsState(&PresenceState{}), opts...)
	return c.live, nil
}

// Mount prepares the state of a visit: the room's view, and whether the visitor is in the
// room. It runs on every page load, post and socket.
func (c *Controller) Mount(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	v := visitOf(ctx)
	if v == nil {
		return s, errNoVisit
	}
	if err := ctx.Subscribe(v.topic()); err != nil {
		return s, fmt.Errorf("mount: %w", err)
	}
	s.Room, s.Visit = v.room, v.id
	s.As, s.Given, s.Watching = v.identity.shown()
	if v.identity.hasEnded() {
		ctx.SetFlash(flashNotice, endedNotice)
	}
	s.Replica, s.Backend, s.Home = c.opts.Replica, c.opts.Backend, c.opts.Home
	s.Refresh = int(c.opts.Refresh.Seconds())
	if v.socket {
		return s, nil // OnConnect does the rest
	}
	s.Origin = c.opts.Origin(v.request)
	wait, cancel := context.WithTimeout(ctx, v.patience())
	defer cancel()
	user, found, err := c.lookUp(wait, v)
	if err != nil {
		c.log.DebugContext(ctx, "visitor not looked up", "err", err)
	}
	if notice := lostNotice(err); notice != "" {
		ctx.SetFlash(flashNotice, notice)
	}
	if found {
		s = s.as(user)
	}
	c.rooms.Reach(wait, v.room, v.seen)
	view, err := c.rooms.Look(wait, v.room)
	if err != nil {
		c.log.DebugContext(ctx, "room not read", "err", err)
	}
	s = s.Shows(view)
	s.Rooms = c.roomLinks(v.room)
	return s, nil
}

// lookUp returns the user that a visitor without a socket is in the room, and renews the
// connection. The error wraps [presence.ErrRemoved] if the user was removed.
//
// This is the only effect of loading a page that others can see: a browser without
// JavaScript that has our cookie is renewed, or put back if Redis lost it.
func (c *Controller) lookUp(ctx context.Context, v *visit) (user presence.User, found bool, err error) {
	if !v.identity.mayJoin() {
		return presence.User{}, false, nil
	}
	load := v.request.Method == http.MethodGet
	if v.bare && load && v.kept == nil {
		return presence.User{}, false, nil
	}
	user, found, err = c.renew(ctx, v, v.connection)
	if !found && err == nil && v.adopt != "" {
		// The tab has a script but no socket yet, so it is not yet the user that the
		// browser is.
		user, found, err = c.renew(ctx, v, c.browser(v))
		found = found && user.ID == v.adopt
	}
	if !v.bare || !load {
		return user, found, err
	}
	if !found && err == nil && v.kept.fresh() && c.opts.Allow(v.request) {
		user, err = c.putBack(ctx, v)
		found = err == nil
	}
	switch { // remember it for another such time
	case found:
		v.keep(c.nameCookie(v, user))
	case errors.Is(err, presence.ErrRemoved):
		v.keep(c.forget(v.request, v.room))
	case errors.Is(err, presence.ErrUnavailable):
		v.keep(c.nameCookie(v, v.kept.user))
	}
	return user, found, err
}

// putBack puts a visitor back into the room with what the browser keeps, unless the user
// was removed since.
func (c *Controller) putBack(ctx context.Context, v *visit) (presence.User, error) {
	was := v.kept.user
	removed, err := c.replica.WasRemoved(ctx, v.room, was.ID, was.Since)
	if err != nil {
		return presence.User{}, err //nolint:wrapcheck // says what was tried
	}
	if removed {
		return presence.User{}, presence.ErrRemoved
	}
	user, _, err := c.put(ctx, v, c.user(v, was.Name))
	return user, err
}

// renew returns the user of a connection of v's browser, and whether there is one. It
// renews a connection without a socket.
func (c *Controller) renew(ctx context.Context, v *visit, id string) (user presence.User, found bool, err error) {
	conn := v.conn("")
	conns, err := c.replica.Renew(ctx, v.room, []string{id}, conn.Lease(c.opts.MemberTTL), conn.Address, conn.Until)
	if err != nil {
		return presence.User{}, false, err //nolint:wrapcheck // says what was tried
	}
	return conns[0].User, conns[0].ID != "", nil
}

// OnConnect begins the visit of a socket. From now on the visitor looks at the room, and
// is in it if this tab was before.
func (c *Controller) OnConnect(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	v := visitOf(ctx)
	if v == nil {
		return s, errNoVisit
	}
	if !v.socket || v.viewer != nil {
		return s, nil // once for each socket: a repeated call must have no effect
	}
	wait, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	v.expire()
	v.page = c.pages.Open(v.room, v)
	v.viewer = c.rooms.Enter(wait, v.room, v.page.Audience())
	c.rooms.Reach(wait, v.room, v.seen)
	v.viewer.Saw(room.View{}) // the page shows nothing yet
	s = c.resume(wait, v, s)
	c.takeTurn(ctx, v)
	s.Rooms = c.roomLinks(v.room)
	return s, nil
}

// resume finds out whether the visit's tab is in the room, and if so makes this socket
// the connection's. While Redis can't tell, the page is shown as stale, and resume is
// tried again whenever there is something new to show.
func (c *Controller) resume(ctx context.Context, v *visit, s PresenceState) PresenceState {
	member, err := c.find(ctx, v)
	for err != nil && c.replica.Ready() == nil && pause(ctx, retryResume) {
		// Redis is slow, for example when the pages of a whole replica reconnect at once.
		member, err = c.find(ctx, v)
	}
	if err != nil {
		if leftOut, due := c.metrics.due(actionResume, err); due {
			c.log.InfoContext(ctx, "connection not resumed yet", "room", v.room, "err", err, "left_out", leftOut)
		}
		c.metrics.count(actionResume, err)
	} else if member != nil {
		c.metrics.count(actionResume, nil)
		v.member = member
		s = s.as(member.User())
	}
	v.resuming = err != nil
	// While replicas put back what Redis lost, a missing connection means nothing yet.
	known := err == nil && (member != nil || !v.viewer.View().Stale)
	v.page.Resolved(known, s.UserID)
	return s
}

// find makes this socket the connection's, if the visit's tab is in the room. It may be
// there as itself, or because the browser joined by a form before the tab had a key.
func (c *Controller) find(ctx context.Context, v *visit) (*replica.Member, error) {
	if !v.identity.mayJoin() {
		return nil, nil //nolint:nilnil // nobody
	}
	conn := v.conn(v.generation)
	if v.adopt != "" {
		early := conn
		early.Generation = presence.NewGeneration()
		if member, err := c.replica.Adopt(ctx, v.room, c.browser(v), v.adopt, early, v); member != nil || err != nil {
			return member, err
		}
	}
	return c.replica.Resume(ctx, v.room, conn, v)
}

// pause waits for d, and reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Join makes the visitor a user of the room, under the name that the visitor typed.
func (c *Controller) Join(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	v := visitOf(ctx)
	if v == nil {
		return s, errNoVisit
	}
	typed := typedName(ctx.Get)
	name, err := v.identity.nameOf(typed)
	if err != nil {
		c.metrics.count(actionJoin, err)
		return s, v.refuse(ctx, typed, err)
	}
	if v.stranger {
		c.metrics.count(actionJoin, errStranger)
		return s, v.refuse(ctx, typed, errStranger)
	}
	// Each join has its own generation. So heartbeats and undos that are still under way
	// for the visit's earlier join have no effect.
	conn := v.conn(presence.NewGeneration())
	conn.User = c.user(v, name)
	began := time.Now()
	wait, cancel := context.WithDeadline(ctx, v.answerBy())
	defer cancel()
	var occupancy presence.Occupancy
	if v.socket {
		var member *replica.Member
		if member, occupancy, err = c.replica.Join(wait, v.room, conn, v, v.member); err == nil {
			v.member = member
		}
	} else {
		var user presence.User
		if user, occupancy, err = c.put(wait, v, conn.User); err == nil && v.bare {
			v.keep(c.nameCookie(v, user))
		}
	}
	c.metrics.count(actionJoin, err)
	c.takeTurn(ctx, v)
	if err != nil {
		if leftOut, due := c.metrics.due(actionJoin, err); due {
			c.log.InfoContext(ctx, "join failed", "room", v.room, "err", err, "left_out", leftOut)
		}
		return s, v.refuse(ctx, typed, err)
	}
	clearFlashes(ctx)
	s = s.as(conn.User)
	if v.socket {
		v.page.Acted(s.UserID, occupancy, began)
		return s, nil
	}
	return s.counts(occupancy).listed(conn.User), nil
}

// Leave ends the visitor's presence through this tab.
func (c *Controller) Leave(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	v := visitOf(ctx)
	if v == nil {
		return s, errNoVisit
	}
	if v.socket && !s.Joined && !v.resuming {
		return s, nil // a tab for which v.resuming holds may be in the room
	}
	began := time.Now()
	wait, cancel := context.WithDeadline(ctx, v.answerBy())
	defer cancel()
	var occupancy presence.Occupancy
	var err error
	switch {
	case v.member != nil:
		occupancy, err = c.replica.Leave(wait, v.member)
	case v.socket && !replica.Answers(wait, v):
		err = presence.ErrSuperseded // the browser may use another socket by now
	default:
		if occupancy, err = c.leaveHTTP(wait, v); err == nil {
			c.changed(v, occupancy.Version)
		}
	}
	c.metrics.count(actionLeave, err)
	c.takeTurn(ctx, v)
	if err != nil {
		if leftOut, due := c.metrics.due(actionLeave, err); due {
			c.log.InfoContext(ctx, "leave failed", "room", v.room, "err", err, "left_out", leftOut)
		}
		return s, v.refuse(ctx, "", err)
	}
	v.member, v.resuming = nil, false
	if !v.socket {
		v.keep(c.forget(v.request, v.room))
	}
	clearFlashes(ctx)
	if !v.socket && occupancy.Users < s.Users {
		s = s.unlisted(s.UserID)
	}
	s.Joined, s.Username, s.UserID = false, "", ""
	if v.socket {
		v.page.Acted("", occupancy, began)
		return s, nil
	}
	return s.owned().counts(occupancy), nil
}

// leaveHTTP ends the presence of a tab without a socket. If the tab has not yet become
// what its browser is, it ends that, too.
func (c *Controller) leaveHTTP(ctx context.Context, v *visit) (presence.Occupancy, error) {
	occupancy, err := c.replica.End(ctx, v.room, v.connection)
	if err != nil || v.adopt == "" {
		return occupancy, err
	}
	if after, ended, err := c.replica.EndAs(ctx, v.room, c.browser(v), v.adopt); ended || err != nil {
		return after, err
	}
	return occupancy, nil
}

// browser returns the connection id of v's browser as a whole.
func (c *Controller) browser(v *visit) string { return c.opts.Keys().ConnectionID(v.session, "") }

// put makes user present through the connection of a visit without a socket. The lease
// lasts beyond the next reloads of the page. It returns the user as others see it.
func (c *Controller) put(ctx context.Context, v *visit, user presence.User) (presence.User, presence.Occupancy, error) {
	conn := v.conn("")
	conn.User = user
	held, err := c.replica.Put(ctx, v.room, store.Wanted{Connection: conn, TTL: conn.Lease(c.opts.MemberTTL), SetName: true})
	if err == nil {
		c.changed(v, held.Version)
	}
	return held.Connection.User, held.Occupancy, err //nolint:wrapcheck // says what was tried
}

// user returns the user that joins under name in the browser of v.
func (c *Controller) user(v *visit, name string) presence.User {
	if i := v.identity; i.isUser() {
		return presence.User{ID: i.User, Name: name, Meta: i.Meta}
	}
	return presence.User{ID: c.opts.Keys().UserID(v.session, name), Name: name, Guest: true}
}

// PresenceChanged renders the visitor's own part again: who the visitor is, if Redis
// could not tell before, and the notice of an outage that has ended. It takes nothing
// from its caller. It does not render the room, which is the same for all: Show sends
// that.
func (c *Controller) PresenceChanged(s PresenceState, ctx *livetemplate.Context) (PresenceState, error) {
	found, ok := c.visits.Load(s.Visit)
	if !ok {
		return s, nil // the socket is closing
	}
	v, ok := found.(*visit)
	if !ok || v.viewer == nil {
		return s, nil
	}
	if end := v.ended.Swap(nil); end != nil && end.member == v.member {
		v.member = nil
		s.Joined, s.Username, s.UserID = false, "", ""
		v.page.Acted("", v.viewer.View().Occupancy, time.Time{})
		clearFlashes(ctx)
		notice := "You are no longer in this room: the server lost its data, and the room was full before you could be put back."
		if errors.Is(end.why, presence.ErrRemoved) {
			notice = removedNotice
		}
		ctx.SetFlash(flashNotice, notice)
		return s, nil
	}
	if v.member == nil && v.page.Unresolved() {
		wait, cancel := context.WithTimeout(ctx, actionTimeout)
		s = c.resume(wait, v, s)
		cancel()
	}
	if !v.viewer.View().Stale {
		ctx.ClearFlash(flashNotice)
	}
	return s, nil
}

// roomLinks lists the room that the visitor looks at and the busiest rooms.
func (c *Controller) roomLinks(here string) []RoomLink {
	links := []RoomLink{{Name: here, Path: RoomPath(here), Here: true}}
	for _, busy := range c.replica.Busiest() {
		if busy.Room != here {
			links = append(links, RoomLink{Name: busy.Room, Path: RoomPath(busy.Room)})
		}
	}
	return links
}

// Lobby is the room at the root of the site.
const Lobby = "lobby"

// RoomPath returns the path of the page of a room.
func RoomPath(room string) string {
	if room == Lobby {
		return "/"
	}
	return "/rooms/" + room
}

// typedName returns the name that the visitor typed. The page script also sends it after
// a mark, because the client turns a text that looks like a number into a number.
func typedName(field func(name string) any) string {
	if exact, ok := strings.CutPrefix(text(field(fieldTyped)), "="); ok {
		return exact
	}
	return text(field(fieldName))
}

// text returns the text of a field: the client turns "42" into a number and "true" into a
// boolean.
func text(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return strconv.FormatBool(v)
	default:
		return ""
	}
}

// refuse shows on the page why an action was refused, and returns the error that keeps
// the form as it is. The messages are flashes, because livetemplate clears field errors
// at the next push.
func (v *visit) refuse(ctx *livetemplate.Context, typed string, err error) error {
	clearFlashes(ctx)
	ctx.SetFlash(flashTyped, strings.ToValidUTF8(typed, "\ufffd"))
	var name *presence.NameError
	key, message := flashNotice, limitNotice(err)
	switch {
	case message != "":
	case errors.Is(err, errMayNotJoin):
		message = "You may watch this room, but not join it."
	case errors.Is(err, errAccessEnded):
		message = endedNotice
	case errors.As(err, &name) && v.identity.hasName():
		message = "You can't join: the name that you were given can't be used here."
	case errors.As(err, &name):
		key, message = flashName, name.Reason
	case errors.Is(err, presence.ErrDamaged):
		message = "This did not happen: something is wrong with this room. Please try another one."
	case errors.Is(err, presence.ErrUnavailable):
		message = "This did not happen: the server can't do it at the moment. Please try again."
	default:
		message = "This did not happen: something went wrong. Please try again."
	}
	ctx.SetFlash(key, message)
	field := fieldName
	if key == flashNotice {
		field = flashNotice
		if v.page != nil {
			v.page.Noticed()
		}
	}
	return livetemplate.NewFieldError(field, errors.New(message)) //nolint:err113 // shown, never compared
}

// removedNotice is shown to visitors who were removed.
const removedNotice = "You are no longer in this room: you have been removed."

// lostNotice returns why a visitor was not put back into the room. It is "" if that is
// not known; then the page is stale.
func lostNotice(err error) string {
	if errors.Is(err, presence.ErrRemoved) {
		return removedNotice
	}
	if limit := limitNotice(err); limit != "" {
		return "You are no longer in this room. " + limit
	}
	return ""
}

// limitNotice returns which limit keeps a visitor from joining, or "".
func limitNotice(err error) string {
	switch {
	case errors.Is(err, presence.ErrRoomFull):
		return "This room is full. Please try again later, or another room."
	case errors.Is(err, presence.ErrTooManyRooms):
		return "There are too many rooms already. Please join one that exists."
	case errors.Is(err, presence.ErrFull):
		return "The server is full and can take nobody new at the moment. Please try again later."
	case errors.Is(err, presence.ErrAddressRooms):
		return "You and others at your network address are in too many rooms. Please leave one, or try again later."
	case errors.Is(err, presence.ErrAddressMembers):
		return "Too many people at your network address are here already. Please try again later."
	default:
		return ""
	}
}

// clearFlashes removes the messages of an earlier refusal.
func clearFlashes(ctx *livetemplate.Context) {
	for _, key := range flashes() {
		ctx.ClearFlash(key)
	}
}

// as sets user as the visitor.
func (s PresenceState) as(user presence.User) PresenceState {
	s.Joined, s.Username, s.UserID = true, user.Name, user.ID
	return s
}

// Shows sets what the page shows of a room.
func (s PresenceState) Shows(view room.View) PresenceState {
	s.Known, s.Stale = !view.AsOf.IsZero(), view.Stale
	s.Roster = rowsOf(view.Roster())
	return s.owned().counts(view.Occupancy)
}

// counts sets the numbers.
func (s PresenceState) counts(o presence.Occupancy) PresenceState {
	s.Users, s.Connections = o.Users, o.Connections
	s.More = max(0, s.Users-len(s.Roster))
	return s
}

// owned marks the visitor's own row.
func (s PresenceState) owned() PresenceState {
	rows := make([]Row, len(s.Roster))
	for i, row := range s.Roster {
		row.Own = s.Joined && row.ID == s.UserID
		rows[i] = row
	}
	s.Roster = rows
	return s
}

// listed adds the visitor at the end of the roster, if there is room. That is where
// others will see the name.
func (s PresenceState) listed(user presence.User) PresenceState {
	s = s.owned()
	for _, row := range s.Roster {
		if row.Own {
			return s
		}
	}
	if len(s.Roster) < presence.RosterSize {
		s.Roster = append(s.Roster, Row{ID: user.ID, Name: user.Name, Own: true})
	}
	s.More = max(0, s.Users-len(s.Roster))
	return s
}

// unlisted removes a user from the roster.
func (s PresenceState) unlisted(id string) PresenceState {
	rows := make([]Row, 0, len(s.Roster))
	for _, row := range s.Roster {
		if row.ID != id {
			rows = append(rows, row)
		}
	}
	s.Roster = rows
	return s
}
