// Package session tells browsers apart: each gets a cookie with a random id,
// signed with a secret that all replicas share, so that each replica accepts the
// cookies of the others.
package session

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"sync/atomic"

	"presence/internal/forwarded"
	"presence/internal/presence"
)

const (
	// plainName and secureName are the names of the cookie over HTTP and over
	// TLS. A cookie with the prefix __Host- can't be set by a sister host or
	// over plain HTTP (RFC 6265bis, 4.1.3.2).
	plainName  = "presence"
	secureName = "__Host-presence"

	// maxAge is how long a browser keeps its id, in seconds: a year.
	maxAge = 365 * 24 * 60 * 60

	// idBytes and sigBytes are the sizes of an id and of its signature: 128 bits each.
	idBytes  = 16
	sigBytes = 16
)

// Cookies gives out session cookies and reads them. It is safe for concurrent
// use.
type Cookies struct {
	// Framed says that pages of other sites may show ours in a frame. It must not be
	// changed after the first use.
	Framed bool

	secret atomic.Pointer[[]byte]
}

// New returns Cookies that sign with secret.
func New(secret []byte) *Cookies {
	c := &Cookies{}
	c.SetSecret(secret)
	return c
}

// SetSecret replaces the secret. Cookies signed with the old one are no longer
// accepted.
func (c *Cookies) SetSecret(secret []byte) { c.secret.Store(&secret) }

// Secret returns the secret.
func (c *Cookies) Secret() string { return string(*c.secret.Load()) }

// Keys derives user and connection ids from the secret.
func (c *Cookies) Keys() presence.Keys { return presence.NewKeys(*c.secret.Load()) }

// Ensure returns the session of the browser that sent r. A browser without a
// valid cookie gets one with the response; nothing must have been written to w.
func (c *Cookies) Ensure(w http.ResponseWriter, r *http.Request) string {
	secure := forwarded.IsHTTPS(r)
	name := plainName
	if secure {
		name = secureName
	}
	if cookie, err := r.Cookie(name); err == nil {
		if id, ok := c.open(cookie.Value); ok {
			return id
		}
	}
	id := Stranger()
	cookie := &http.Cookie{Name: name, Value: id + "." + c.sign(id), Path: "/", MaxAge: maxAge}
	c.Guard(r, cookie)
	http.SetCookie(w, cookie)
	return id
}

// Guard gives a cookie in the answer to r the attributes of all our cookies: scripts
// can't read it, pages of other sites can't send it, and if r came over TLS it is sent
// only over TLS. If other sites may frame our pages, each of these sites has a cookie of
// its own (CHIPS), and it is sent only over TLS, as browsers demand.
func (c *Cookies) Guard(r *http.Request, cookie *http.Cookie) {
	cookie.HttpOnly = true
	cookie.Secure = c.Framed || forwarded.IsHTTPS(r)
	cookie.SameSite = http.SameSiteLaxMode
	if cookie.Partitioned = c.Framed; c.Framed {
		cookie.SameSite = http.SameSiteNoneMode
	}
}

// Stranger returns a new session that no later request will have, for a browser that
// can't be recognised.
func Stranger() string {
	var b [idBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// open returns the id of a cookie's value, and whether we signed it.
func (c *Cookies) open(value string) (id string, ok bool) {
	id, signature, ok := strings.Cut(value, ".")
	if !ok || len(id) != base64.RawURLEncoding.EncodedLen(idBytes) {
		return "", false
	}
	return id, hmac.Equal([]byte(signature), []byte(c.sign(id)))
}

// sign returns the signature of an id: HMAC-SHA256 (RFC 2104), cut to sigBytes.
func (c *Cookies) sign(id string) string {
	mac := hmac.New(sha256.New, *c.secret.Load())
	mac.Write([]byte("cookie\x00" + id))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:sigBytes])
}
