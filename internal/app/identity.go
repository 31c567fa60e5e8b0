package app

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"presence/internal/access"
	"presence/internal/controller"
	"presence/internal/forwarded"
	"presence/internal/presence"
	"presence/templates"
)

// A visitor of a page shows a member token once, in the address: the answer leads to the
// address without it, and has the browser keep the token in cookies, which no script reads,
// until it expires. Each request is judged by the token itself: keys that were replaced,
// and tokens that have expired, open nothing.
const (
	tokenParam = "access_token"

	// tokenCookie keeps the last token that the browser came with, for all rooms that the
	// token names. With a hyphen and a room it is the name of the cookie that keeps the
	// token with which the browser came to that room.
	tokenCookie = "presence-as"

	// endedCookie and a room say that the browser had a token there. It holds no part of it.
	endedCookie = "presence-was"

	// endedPublic and endedElsewhere are how long the browser keeps that cookie after the
	// token has expired: in a room where the visitor can stay as a guest, and in others.
	endedPublic    = time.Minute
	endedElsewhere = 24 * time.Hour

	// maxTokenCookie is the longest token that a cookie can keep: browsers take 4,096 bytes
	// of name and value (RFC 6265bis, 5.6).
	maxTokenCookie = 3900
)

// hasPage reports whether the sender of r may see the page of a room. If not, or if it
// redirects, it has answered. Otherwise the request that it returns says who the visitor
// is.
func (a *App) hasPage(w http.ResponseWriter, r *http.Request, room string) (*http.Request, bool) {
	if presence.CheckRoom(room) != nil {
		a.notFound(w)
		return nil, false
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		if rest, tokens := withoutToken(r.URL.RawQuery); len(tokens) > 0 {
			a.enter(w, r, room, rest, tokens)
			return nil, false
		}
	}
	grant, err := a.visitor(r, room)
	if err == nil && grant.Token {
		err = grant.Need(access.Observe, room)
	}
	_, gone := r.Cookie(endedCookie + "-" + room)
	ended := gone == nil
	switch {
	case err != nil:
		a.noEntry(w, r, err)
	case grant.Token:
		if r.Method == http.MethodGet && r.Header.Get("Upgrade") == "" {
			a.keepCookie(w, r, room, endedCookie, "1", time.Until(grant.Expires)+a.endedFor(room))
		}
		return controller.With(r, identityOf(grant, room)), true
	case a.isPublic(room):
		if ended {
			r = controller.With(r, controller.Identity{Ended: true})
		}
		return r, true
	case ended:
		a.noEntry(w, r, &access.Refusal{Kind: access.Unauthorized, Reason: access.ReasonExpiredToken})
	default:
		a.notFound(w)
	}
	return nil, false
}

// visitor is the grant of the sender of r in a room: the grant of the token with which the
// browser came to the room, else of the last token of the browser, if that names the room.
// The error is a [*access.Refusal].
func (a *App) visitor(r *http.Request, room string) (*access.Grant, error) {
	if cookie, err := r.Cookie(cookieName(r, tokenCookie+"-"+room)); err == nil {
		return a.access.Token(cookie.Value) //nolint:wrapcheck // is what is answered
	}
	if cookie, err := r.Cookie(cookieName(r, tokenCookie)); err == nil {
		if grant, err := a.access.Token(cookie.Value); err == nil && grant.Concerns(room) {
			return grant, nil
		}
	}
	return a.access.Anybody(), nil
}

// enter answers a visitor with a token in the address; rest is the query without the token.
func (a *App) enter(w http.ResponseWriter, r *http.Request, room, rest string, tokens []string) {
	// No page is told the address, and no cache keeps it.
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Cache-Control", "no-store")
	grant, err := a.tokenGrant(tokens)
	if err == nil {
		err = grant.Need(access.Observe, room)
	}
	if err != nil {
		a.noEntry(w, r, err)
		return
	}
	for _, name := range []string{tokenCookie + "-" + room, tokenCookie} {
		a.keepCookie(w, r, room, name, tokens[0], time.Until(grant.Expires))
	}
	to := url.URL{Path: "/", RawQuery: rest}
	if r.PathValue("room") != "" {
		to.Path = "/rooms/" + room // a checked name
	}
	http.Redirect(w, r, to.String(), http.StatusSeeOther)
}

// tokenGrant is the grant of the tokens of an address. There must be exactly one, and a
// cookie must be able to keep it. The error is a [*access.Refusal].
func (a *App) tokenGrant(tokens []string) (*access.Grant, error) {
	token := tokens[0]
	if len(tokens) > 1 {
		token = "" // is none
	}
	grant, err := a.access.Token(token)
	if err == nil && len(token) > maxTokenCookie {
		return nil, &access.Refusal{Reason: access.ReasonBadToken, Detail: fmt.Sprintf("This token is too long for a page, where it may have %d characters.", maxTokenCookie)}
	}
	return grant, err //nolint:wrapcheck // is what is answered
}

// withoutToken splits a query into its tokens, decoded, and the rest as it was sent. A token
// that can't be decoded is a bad one.
func withoutToken(query string) (rest string, tokens []string) {
	var kept []string
	for part := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(part, "=")
		if key, err := url.QueryUnescape(name); err != nil || key != tokenParam {
			kept = append(kept, part)
			continue
		}
		token, err := url.QueryUnescape(value)
		if err != nil {
			token = ""
		}
		tokens = append(tokens, token)
	}
	return strings.Join(kept, "&"), tokens
}

// keepCookie lets the browser keep a value for a while: for the page of a room or, under the
// name for all rooms, for all pages.
func (a *App) keepCookie(w http.ResponseWriter, r *http.Request, room, name, value string, age time.Duration) {
	if name == endedCookie {
		name += "-" + room
	}
	cookie := &http.Cookie{Value: value, Path: "/", MaxAge: max(1, int(age/time.Second))}
	a.cookies.Guard(r, cookie)
	if name != tokenCookie && room != controller.Lobby {
		cookie.Path = "/rooms/" + room
	}
	if cookie.Name = name; strings.HasPrefix(name, tokenCookie) {
		cookie.Name = cookieName(r, name)
	}
	http.SetCookie(w, cookie)
}

// cookieName is the name of a cookie. Over TLS it has a prefix with which browsers accept
// the cookie only over TLS (RFC 6265bis, 4.1.3).
func cookieName(r *http.Request, name string) string {
	if forwarded.IsHTTPS(r) {
		return "__Secure-" + name
	}
	return name
}

// endedFor is how long a browser keeps the cookie which says that it had a token.
func (a *App) endedFor(room string) time.Duration {
	if a.isPublic(room) {
		return endedPublic
	}
	return endedElsewhere
}

// identityOf is the identity of a visitor with a grant in a room.
func identityOf(g *access.Grant, room string) controller.Identity {
	return controller.Identity{
		User: g.User, Name: g.Name, Meta: g.Meta, Speaker: g.Speaker,
		MayJoin: g.May(access.Join, room), Until: g.Expires,
	}
}

// noEntry answers a visitor whom access has refused. The page is for the visitor, who can
// only ask for another link; the log says to the operator what is wrong with the token.
func (a *App) noEntry(w http.ResponseWriter, r *http.Request, err error) {
	refusal := &access.Refusal{}
	_ = errors.As(err, &refusal) // all errors of access are
	switch {
	case refusal.Kind == access.Forbidden:
		a.logToken(r, refusal)
		a.notice(w, http.StatusForbidden, templates.Notice{Title: "This room is not open to you", Text: "Your link is for other rooms. If you need this one, please ask for a link to it where you got yours."})
	case refusal.Reason == access.ReasonExpiredToken:
		w.Header().Set("WWW-Authenticate", "Bearer")
		a.notice(w, http.StatusUnauthorized, templates.Notice{Title: "Your access to this room has ended", Text: "Please go back to where you came from, and open the room from there once more."})
	default:
		a.logToken(r, refusal)
		w.Header().Set("WWW-Authenticate", "Bearer")
		a.notice(w, http.StatusUnauthorized, templates.Notice{Title: "This link does not open the room", Text: "It can’t be used, or not any more. Please ask for a new one where you got it."})
	}
}

// isPublic reports whether the name is legal and everybody may see the room.
func (a *App) isPublic(room string) bool {
	return presence.CheckRoom(room) == nil && a.access.Anybody().May(access.Observe, room)
}
