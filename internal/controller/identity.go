package controller

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
)

// Why a visitor with a token can't join.
var (
	errMayNotJoin  = errors.New("the token does not let its bearer join")
	errAccessEnded = errors.New("the token has expired")
)

// endedNotice is shown to visitors whose token has expired.
const endedNotice = "Your access to this room has ended. To come back, open it again from where you came."

// Identity is what a token says about a visitor: who they are, and what they may do in a
// room.
type Identity struct {
	// User is the user's id. Name is the name in the token; "" if the visitor may choose
	// one. Meta is the metadata for a new user.
	User, Name, Meta string

	// Speaker identifies who vouches for the user. Different speakers have different
	// connections.
	Speaker string

	// MayJoin says that the visitor may join the room, and not only look at it.
	MayJoin bool

	// Until is when the token expires.
	Until time.Time

	// Ended says that the token has expired. Then the visitor is a guest, and the page
	// says so.
	Ended bool
}

type identityKey struct{}

// With returns r with the identity of its sender. All other requests are from guests.
func With(r *http.Request, i Identity) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), identityKey{}, i))
}

// identify sets the visit's identity to that of the sender of r.
func (v *visit) identify(r *http.Request) {
	i, ok := r.Context().Value(identityKey{}).(Identity)
	if !ok {
		return
	}
	if v.identity = &i; i.isUser() {
		// What the browser is in the room by its session alone belongs to a guest.
		v.session += " " + i.Speaker
	}
}

// isUser reports whether the visitor has a valid token.
func (i *Identity) isUser() bool { return i != nil && !i.Ended }

// hasEnded reports whether the visitor had a token that has recently expired.
func (i *Identity) hasEnded() bool { return i != nil && i.Ended }

// hasName reports whether the token gives the visitor's name.
func (i *Identity) hasName() bool { return i.isUser() && i.Name != "" }

// mayJoin reports whether the visitor may be in the room.
func (i *Identity) mayJoin() bool { return !i.isUser() || i.MayJoin && time.Now().Before(i.Until) }

// shown returns what the page shows of the identity.
func (i *Identity) shown() (as, given string, watching bool) {
	if !i.isUser() {
		return "", "", false
	}
	if given = i.Name; given != "" {
		if name, err := presence.CleanName(given); err == nil {
			given = name
		} else {
			given = i.User // no join succeeds with this name
		}
	}
	return i.User, given, !i.MayJoin
}

// nameOf returns the name under which a visitor joins who has typed one.
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

// conn returns the visit's connection with a generation.
func (v *visit) conn(generation string) presence.Connection {
	c := presence.Connection{ID: v.connection, Generation: generation, Address: v.address}
	if v.identity.isUser() {
		c.Until = v.identity.Until
	}
	return c
}

// expire makes the visit end with the token. The page then reconnects, and its visitor is
// a guest.
func (v *visit) expire() {
	if !v.identity.isUser() || v.browser.Load() == nil {
		return
	}
	v.expiry = time.AfterFunc(time.Until(v.identity.Until), func() {
		_ = (*v.browser.Load()).CloseWith(livetemplate.WSCloseServiceRestart, "access ended") // after an error the socket is gone
	})
}
