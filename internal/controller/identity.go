package controller

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
)

// Why a visitor whom a token speaks for can't join.
var (
	errMayNotJoin  = errors.New("the token does not let its bearer join")
	errAccessEnded = errors.New("the token has expired")
)

// endedNotice is said to those whose token has expired.
const endedNotice = "Your access to this room has ended. To come back, open it again from where you came."

// Identity is who a visitor is by a token, and what that allows in a room.
type Identity struct {
	// User is the id, Name the name that the token gives, "" if it leaves it free, and
	// Meta the metadata of a user who is new.
	User, Name, Meta string

	// Speaker is who speaks for the user: connections of different ones are different.
	Speaker string

	// MayJoin says that the visitor may join the room and not only look at it.
	MayJoin bool

	// Until is when the token expires.
	Until time.Time

	// Ended says that the token has expired: the visitor is a guest, and is told.
	Ended bool
}

type identityKey struct{}

// With returns r as a request of somebody with an identity. All others are of guests.
func With(r *http.Request, i Identity) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), identityKey{}, i))
}

// identify takes over who sent r.
func (v *visit) identify(r *http.Request) {
	i, ok := r.Context().Value(identityKey{}).(Identity)
	if !ok {
		return
	}
	if v.identity = &i; i.isUser() {
		// Whatever the browser is in the room by its session alone is a guest's.
		v.session += " " + i.Speaker
	}
}

// isUser reports whether a token speaks for the visitor.
func (i *Identity) isUser() bool { return i != nil && !i.Ended }

// hasEnded reports whether a token did until a moment ago.
func (i *Identity) hasEnded() bool { return i != nil && i.Ended }

// hasName reports whether the visitor's name is given.
func (i *Identity) hasName() bool { return i.isUser() && i.Name != "" }

// mayJoin reports whether the visitor may be in the room.
func (i *Identity) mayJoin() bool { return !i.isUser() || i.MayJoin && time.Now().Before(i.Until) }

// shown is what the page shows of it.
func (i *Identity) shown() (as, given string, watching bool) {
	if !i.isUser() {
		return "", "", false
	}
	if given = i.Name; given != "" {
		if name, err := presence.CleanName(given); err == nil {
			given = name
		} else {
			given = i.User // with which no join succeeds
		}
	}
	return i.User, given, !i.MayJoin
}

// nameOf is the name under which the visitor joins who has typed one.
func (i *Identity) nameOf(typed string) (string, error) {
	switch {
	case !i.isUser():
	case !i.MayJoin:
		return "", errMayNotJoin
	case !i.mayJoin():
		return "", errAccessEnded
	case i.Name != "":
		typed = i.Name
	}
	return presence.CleanName(typed) //nolint:wrapcheck // is judged
}

// conn is the visit's connection in the hands of generation.
func (v *visit) conn(generation string) presence.Connection {
	c := presence.Connection{ID: v.connection, Generation: generation, Address: v.address}
	if v.identity.isUser() {
		c.Until = v.identity.Until
	}
	return c
}

// expire has the visit end when the token does. The page comes back as who it is then.
func (v *visit) expire() {
	if !v.identity.isUser() || v.browser.Load() == nil {
		return
	}
	v.expiry = time.AfterFunc(time.Until(v.identity.Until), func() {
		_ = (*v.browser.Load()).CloseWith(livetemplate.WSCloseServiceRestart, "access ended") // an error: it has gone
	})
}
