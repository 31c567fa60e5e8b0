package access

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"presence/internal/presence"
)

// A Right allows its holder to do something in a room.
type Right uint8

// The rights. None implies another.
const (
	Observe Right = 1 << iota // read and watch
	Join                      // join, renew and leave
	Remove                    // end the connections of others; API keys alone
)

// String returns what the right allows, to follow "may not".
func (r Right) String() string {
	switch r {
	case Observe:
		return "observe"
	case Join:
		return "join"
	case Remove:
		return "remove members of"
	default:
		return fmt.Sprintf("do %d in", r)
	}
}

// Options are the settings of an [Access]. The zero value lets everybody observe all
// rooms, and nobody do more.
type Options struct {
	// Keys are the API keys, as [ParseKeys] returns them.
	Keys []Key

	// TokenSecret is the secret that signs member tokens (HS256). Empty: no such tokens are
	// accepted.
	TokenSecret []byte

	// TokenKeys are the public keys of member tokens; nil: there are none. [New] begins to
	// count their reads.
	TokenKeys *KeySet

	// Audience must be in the claim aud of member tokens; "": the claim is ignored.
	Audience string

	// PublicRooms are the patterns of the rooms that everybody may observe; nil: all
	// rooms. A pattern is the name of a room, or a prefix followed by *.
	PublicRooms []string

	// Embedded says that the store ends with this process. Then, unless there are other
	// keys or tokens, a key for this run is made: see [Access.RunKey].
	Embedded bool

	// Configured says that keys or tokens were set, even if no key is left of them.
	Configured bool

	// Registerer is for metrics; nil: they are not registered.
	Registerer prometheus.Registerer
}

// Access decides on credentials. It is safe for concurrent use.
type Access struct {
	keys       atomic.Pointer[[]Key]
	tokens     *tokens // nil: no tokens are accepted
	anonymous  *Grant
	runKey     string
	configured bool
	refusals   *prometheus.CounterVec
	watched    watched
}

// New returns an Access. The error says what is wrong with a pattern.
func New(o Options) (*Access, error) {
	a := &Access{configured: o.Configured || len(o.Keys) > 0 || len(o.TokenSecret) > 0 || o.TokenKeys != nil}
	a.SetKeys(o.Keys)
	a.watched.init()
	a.refusals = newRefusals(o.Registerer)
	if reads := newReads(o.Registerer); o.TokenKeys != nil {
		o.TokenKeys.reads = reads
	}
	public := presence.AllRooms()
	if o.PublicRooms != nil {
		var err error
		if public, err = presence.ParsePatterns(o.PublicRooms); err != nil {
			return nil, err //nolint:wrapcheck // says all there is to say
		}
	}
	a.anonymous = &Grant{access: a, public: public}
	if len(o.TokenSecret) > 0 || o.TokenKeys != nil {
		a.tokens = newTokens(o)
	}
	if o.Embedded && !a.configured {
		a.runKey = keyPrefix + rand.Text()
		a.SetKeys([]Key{newKey("run", a.runKey, Observe|Join|Remove)})
	}
	return a, nil
}

// RunKey returns the API key that was made for this run, with all rights in all
// rooms, or "" if there is none. Only the operator may be told it.
func (a *Access) RunKey() string { return a.runKey }

// SetKeys replaces the API keys. An event stream that was opened with a key that is no
// longer among them stays open.
func (a *Access) SetKeys(keys []Key) { a.keys.Store(&keys) }

// SetTokenSecret replaces the secret of member tokens. The Access must have one already.
func (a *Access) SetTokenSecret(secret []byte) { a.tokens.secret.Store(&secret) }

// Anybody returns the grant of a sender without credentials.
func (a *Access) Anybody() *Grant { return a.anonymous }

// Grant returns the grant of the sender of r, which without credentials is that of
// [Access.Anybody]. The error is a [*Refusal] with [Unauthorized] if the credentials are
// bad, even for public rooms. query says that the address may hold a token, as
// access_token: for GET of events and pages, where browsers can't set headers.
func (a *Access) Grant(r *http.Request, query bool) (*Grant, error) {
	credential, refusal := bearer(r.Header)
	if refusal != nil {
		return nil, a.refuse(refusal)
	}
	if query {
		values, _ := url.ParseQuery(r.URL.RawQuery) // what can't be read is not there
		switch tokens := values["access_token"]; {
		case len(tokens) == 0:
		case credential != "" || len(tokens) > 1:
			return nil, a.refuse(&Refusal{Unauthorized, ReasonMalformed, "Please send one token, in the Authorization header or as access_token."})
		default:
			return a.Token(tokens[0])
		}
	}
	switch {
	case credential == "":
		return a.anonymous, nil
	case strings.HasPrefix(credential, keyPrefix):
		if key := a.find(credential); key != nil {
			return a.granted(key), nil
		}
		return nil, a.refuse(&Refusal{Unauthorized, ReasonUnknownKey, "This API key is not one of the server's. Its keys are the lines of -api-keys-file."})
	default:
		return a.Token(credential)
	}
}

// Token returns the grant of a member token that stands neither in the header nor in the
// address. The error is a [*Refusal].
func (a *Access) Token(token string) (*Grant, error) {
	if a.tokens == nil {
		return nil, a.refuse(&Refusal{Unauthorized, ReasonBadToken, "This server takes no member tokens: neither -token-secret-file nor -token-jwks is set."})
	}
	g, refusal := a.tokens.parse(token)
	if refusal != nil {
		return nil, a.refuse(refusal)
	}
	g.access, g.public = a, a.anonymous.public
	return g, nil
}

// A Sender is the identity of a request's sender for limits.
type Sender struct {
	// ID differs between credentials, and does not reveal the credential; "" without one.
	ID string

	// Key says that the credential is a valid API key. Other credentials were not checked.
	Key bool
}

// Sender returns the identity of the sender of r for limits. It is cheap enough to be
// called before a limit, counts nothing, and does not check tokens.
func (a *Access) Sender(r *http.Request) Sender {
	credential, refusal := bearer(r.Header)
	if refusal == nil && credential == "" && r.URL.RawQuery != "" {
		credential = r.URL.Query().Get("access_token")
	}
	if refusal != nil || credential == "" {
		return Sender{}
	}
	hash := sha256.Sum256([]byte(credential))
	good := strings.HasPrefix(credential, keyPrefix) && r.Header.Get("Authorization") != "" && a.find(credential) != nil
	return Sender{ID: string(hash[:]), Key: good}
}

// granted returns the grant of a key.
func (a *Access) granted(k *Key) *Grant {
	return &Grant{Speaker: keySpeaker, Key: true, access: a, public: a.anonymous.public, rules: k.rules}
}

// bearer returns the credential of the Authorization header (RFC 6750, section 2.1),
// or "" where there is no such header.
func bearer(h http.Header) (string, *Refusal) {
	values := h.Values("Authorization")
	if len(values) == 0 {
		return "", nil
	}
	scheme, credential, _ := strings.Cut(values[0], " ")
	credential = strings.Trim(credential, " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") || credential == "" {
		return "", &Refusal{Unauthorized, ReasonMalformed, "Please send one Authorization header: Bearer, a blank, and an API key or a member token."}
	}
	return credential, nil
}

// A rule grants rights in the rooms of a pattern.
type rule struct {
	pattern presence.Pattern
	rights  Right
}

// A Grant is what the sender of a request may do. It never changes, not even when its
// token expires: code that keeps a Grant has to check Expires.
type Grant struct {
	// Speaker names the owner of the sender's connections: "" without credentials, "key"
	// for all API keys, and for a token "token:" followed by its user.
	Speaker string

	// Key and Token say which credentials were sent. At most one is true.
	Key, Token bool

	// User is the user of a token; "" for other senders.
	User string

	// Name is the name in a token, unchecked: it may not be a legal name. "": the token has
	// none, and its user may choose one.
	Name string

	// Meta is the metadata in a token, for a join that has none of its own: a JSON object in
	// compact form, or "" for none.
	Meta string

	// Expires is when the token expires; zero: never.
	Expires time.Time

	access *Access
	public presence.Patterns
	rules  []rule
}

// May reports whether right is granted in room.
func (g *Grant) May(right Right, room string) bool {
	if right == Observe && g.public.Match(room) {
		return true
	}
	for _, rule := range g.rules {
		if rule.rights&right != 0 && rule.pattern.Match(room) {
			return true
		}
	}
	return false
}

// Concerns reports whether g has rights in room that not everybody has.
func (g *Grant) Concerns(room string) bool {
	return slices.ContainsFunc(g.rules, func(r rule) bool { return r.rights != 0 && r.pattern.Match(room) })
}

// Rooms returns patterns of the rooms in which right is granted, in the order of the names.
// No two patterns stand for the same room.
func (g *Grant) Rooms(right Right) presence.Patterns {
	var rooms presence.Patterns
	if right == Observe {
		rooms = append(rooms, g.public...)
	}
	for _, rule := range g.rules {
		if rule.rights&right != 0 {
			rooms = append(rooms, rule.pattern)
		}
	}
	return rooms.Apart()
}

// Need returns nil if right is granted in room, else a [*Refusal]: [Unauthorized] if the
// request has no credentials, else [Forbidden]. It counts refusals.
func (g *Grant) Need(right Right, room string) error {
	switch {
	case g.May(right, room):
		return nil
	case g.Speaker == "":
		return g.access.refuse(&Refusal{Unauthorized, ReasonNoCredentials, g.access.howToOpen()})
	case g.Key:
		return g.access.refuse(&Refusal{Forbidden, ReasonNoRight, fmt.Sprintf("This API key may not %s the room: see rooms= and rights= of its line in -api-keys-file.", right)})
	case right == Remove:
		return g.access.refuse(&Refusal{Forbidden, ReasonNoRight, "A member token may not remove members: use an API key."})
	default:
		return g.access.refuse(&Refusal{Forbidden, ReasonNoRight, fmt.Sprintf("This token may not %s the room: see presence.rooms of its claims.", right)})
	}
}

// NeedSpeaker returns nil if the request has credentials, else a [*Refusal] with
// [Unauthorized].
func (g *Grant) NeedSpeaker() error {
	if g.Speaker != "" {
		return nil
	}
	return g.access.refuse(&Refusal{Unauthorized, ReasonNoCredentials, g.access.howToOpen()})
}

// CheckUser returns nil if g may speak for user, which a request names, else a
// [*Refusal] with [Forbidden]. An API key speaks for all users.
func (g *Grant) CheckUser(user string) error {
	if !g.Token || user == g.User {
		return nil
	}
	return g.access.refuse(&Refusal{Forbidden, ReasonOtherUser, "This token speaks for another user: leave user out, or give the token's sub."})
}

// CheckName returns nil if g may give its user the name, which a request gives, else a
// [*Refusal] with [Forbidden]. Only a token with a name has no other.
func (g *Grant) CheckName(name string) error {
	if g.Name == "" || name == g.Name || cleanEqual(name, g.Name) {
		return nil
	}
	return g.access.refuse(&Refusal{Forbidden, ReasonOtherUser, "This token gives its user another name: leave name out, or give the token's."})
}

// cleanEqual reports whether two texts are one name.
func cleanEqual(a, b string) bool {
	x, errX := presence.CleanName(a)
	y, errY := presence.CleanName(b)
	return errX == nil && errY == nil && x == y
}

// howToOpen says how the sender can get a missing right.
func (a *Access) howToOpen() string {
	switch {
	case a.runKey != "":
		return "Please send Authorization: Bearer and the API key that this server printed when it started."
	case !a.configured:
		return "This needs an API key or a member token, and the server takes neither: start it with -api-keys-file, -token-secret-file or -token-jwks."
	default:
		return "Please send Authorization: Bearer and an API key or a member token that has the right."
	}
}

// refuse counts a refusal, and returns it.
func (a *Access) refuse(r *Refusal) error {
	a.refusals.WithLabelValues(string(r.Reason)).Inc()
	return r
}
