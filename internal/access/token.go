package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"presence/internal/presence"
)

const (
	// maxToken is the longest token that is read, in bytes: it fits into the headers of a
	// request and into the body of a beacon.
	maxToken = 16 << 10

	// maxExpires is the last second that RFC 3339 can write: the end of the year 9999. A
	// later time was probably given in milliseconds.
	maxExpires = 253402300799

	// tokenSpeaker begins the speaker of a token.
	tokenSpeaker = "token:"

	// maxMeta is the largest metadata of a user in compact form, in bytes.
	maxMeta = 1024
)

// tokens reads member tokens. It is safe for concurrent use.
type tokens struct {
	parser   *jwt.Parser
	secret   atomic.Pointer[[]byte] // for HS256
	keys     *KeySet                // for the other algorithms; nil: there are none
	audience string                 // that a token must name; "": none
	signed   string                 // says how, in a sentence
}

func newTokens(o Options) *tokens {
	t := &tokens{keys: o.TokenKeys, audience: o.Audience}
	t.secret.Store(&o.TokenSecret)
	var methods, ways []string
	if len(o.TokenSecret) > 0 {
		methods = append(methods, jwt.SigningMethodHS256.Alg())
		ways = append(ways, "HS256 and the secret of -token-secret-file")
	}
	if t.keys != nil {
		methods = append(methods, jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg(), jwt.SigningMethodEdDSA.Alg())
		ways = append(ways, "RS256, ES256 or EdDSA and a key of -token-jwks")
	}
	t.signed = "signed with " + strings.Join(ways, ", or with ") + "."
	t.parser = jwt.NewParser(
		jwt.WithValidMethods(methods),
		jwt.WithExpirationRequired(),
		jwt.WithStrictDecoding(), // one token is one text
	)
	return t
}

// errCritical is returned for a token with critical extensions, which this server does not
// know.
var errCritical = errors.New("critical header")

// key returns the key for the signature of a token.
func (t *tokens) key(token *jwt.Token) (any, error) {
	if _, ok := token.Header["crit"]; ok { // RFC 7515, 4.1.11
		return nil, errCritical
	}
	alg := token.Method.Alg() // one of those that are taken
	if alg == jwt.SigningMethodHS256.Alg() {
		return *t.secret.Load(), nil
	}
	kid, ok := token.Header["kid"].(string)
	if !ok && token.Header["kid"] != nil {
		return nil, errUnknownKey
	}
	return t.keys.find(alg, kid)
}

// parse returns the grant of a token, or why it is refused.
func (t *tokens) parse(text string) (*Grant, *Refusal) {
	if len(text) > maxToken {
		return nil, badToken("It has more than 16 KiB.")
	}
	var c claims
	var wrong *claimError
	switch _, err := t.parser.ParseWithClaims(text, &c, t.key); {
	case err == nil:
	case errors.Is(err, errUnknownKey):
		return nil, badToken("Its kid names no key of -token-jwks, or it has none where there are several. It must be " + t.signed)
	case errors.Is(err, errUnread):
		return nil, badToken("The keys of -token-jwks could not be read yet. Please try again.")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid), errors.Is(err, errCritical):
		return nil, badToken("It must be " + t.signed)
	case errors.Is(err, jwt.ErrTokenExpired):
		return nil, &Refusal{Unauthorized, ReasonExpiredToken, "This token has expired. Please get a new one."}
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return nil, badToken("Its nbf lies in the future.")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return nil, badToken("It needs the claim exp, in seconds since 1970.")
	case errors.Is(err, jwt.ErrTokenInvalidClaims):
		return nil, badToken("One of its claims is not valid.")
	case errors.As(err, &wrong):
		return nil, badToken(wrong.detail)
	default:
		return nil, badToken("It must be a JSON Web Token, " + t.signed)
	}
	if t.audience != "" && !slices.Contains(c.audience, t.audience) {
		return nil, badToken("Its aud must be the audience of -token-audience, or a list with it.")
	}
	return c.grant, nil
}

// badToken is the refusal of a bad token; why is a sentence.
func badToken(why string) *Refusal {
	return &Refusal{Unauthorized, ReasonBadToken, "This token is not valid. " + why}
}

// claimError says what is wrong with a claim, in a sentence.
type claimError struct{ detail string }

// Error returns the sentence.
func (e *claimError) Error() string { return e.detail }

// claims are the claims of a member token. Upper and lower case differ in their names;
// encoding/json would ignore case for the fields of a struct.
type claims struct {
	expires, notBefore *jwt.NumericDate // nil: there is none
	audience           []string
	grant              *Grant
}

// UnmarshalJSON reads the claims. The error is a [*claimError].
func (c *claims) UnmarshalJSON(text []byte) error {
	var all map[string]json.RawMessage
	if json.Unmarshal(text, &all) != nil {
		return &claimError{"Its claims must be a JSON object."}
	}
	var err error
	if c.expires, err = date(all["exp"], "exp"); err != nil {
		return err
	}
	if c.notBefore, err = date(all["nbf"], "nbf"); err != nil {
		return err
	}
	if c.audience, err = audience(all["aud"]); err != nil {
		return err
	}
	g := &Grant{Token: true}
	if c.expires != nil {
		g.Expires = c.expires.Time
	}
	if err := read(all["sub"], &g.User); err != nil || presence.CheckID(g.User) != nil {
		return &claimError{"It needs the claim sub, the id of a user: 1 to 128 characters of A-Z, a-z, 0-9 and _.:@|+=~-."}
	}
	g.Speaker = tokenSpeaker + g.User
	if err := read(all["name"], &g.Name); err != nil {
		return &claimError{"Its claim name must be a text."}
	}
	var own map[string]json.RawMessage
	if err := read(all["presence"], &own); err != nil {
		return &claimError{"Its claim presence must be an object."}
	}
	if g.rules, err = rules(own["rooms"]); err != nil {
		return err
	}
	if g.Meta, err = meta(own["meta"]); err != nil {
		return err
	}
	c.grant = g
	return nil
}

// read unmarshals the value of a claim. A missing claim leaves v as it is.
func read(value json.RawMessage, v any) error {
	if value == nil {
		return nil
	}
	return json.Unmarshal(value, v)
}

// date reads a NumericDate (RFC 7519, section 2), or returns nil where there is none.
func date(value json.RawMessage, name string) (*jwt.NumericDate, error) {
	if value == nil {
		return nil, nil //nolint:nilnil // as the library's interface has it
	}
	seconds := math.NaN() // null is no date
	if err := json.Unmarshal(value, &seconds); err != nil || !(seconds >= 0 && seconds <= maxExpires) {
		return nil, &claimError{"Its claim " + name + " must be a time in seconds since 1970."}
	}
	return jwt.NewNumericDate(time.Unix(int64(seconds), 0)), nil
}

// audience reads aud: a text, or a list of texts (RFC 7519, 4.1.3).
func audience(value json.RawMessage) ([]string, error) {
	var one string
	if read(value, &one) == nil {
		return []string{one}, nil
	}
	var list []string
	if read(value, &list) != nil {
		return nil, &claimError{"Its claim aud must be a text or a list of texts."}
	}
	return list, nil
}

// rules reads presence.rooms: an object of patterns, each with a list of rights. A right
// that this server does not know grants nothing.
func rules(value json.RawMessage) ([]rule, error) {
	var rooms map[string][]string
	if read(value, &rooms) != nil {
		return nil, &claimError{`Its presence.rooms must be an object such as {"lobby":["observe","join"],"team-*":["observe"]}.`}
	}
	var list []rule
	for text, names := range rooms {
		p, err := presence.ParsePattern(text)
		if err != nil {
			return nil, &claimError{"In its presence.rooms " + err.Error() + "."}
		}
		r := rule{pattern: p}
		for _, name := range names {
			switch name {
			case "observe":
				r.rights |= Observe
			case "join":
				r.rights |= Join
			}
		}
		list = append(list, r)
	}
	return list, nil
}

// meta reads presence.meta, and returns it in compact form.
func meta(value json.RawMessage) (string, error) {
	var object map[string]json.RawMessage
	if read(value, &object) != nil || !utf8.Valid(value) {
		return "", &claimError{"Its presence.meta must be an object."}
	}
	if len(object) == 0 {
		return "", nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, value); err != nil || compact.Len() > maxMeta {
		return "", &claimError{"Its presence.meta must have at most 1,024 bytes in compact form."}
	}
	return compact.String(), nil
}

// GetExpirationTime returns exp.
func (c *claims) GetExpirationTime() (*jwt.NumericDate, error) { return c.expires, nil }

// GetNotBefore returns nbf.
func (c *claims) GetNotBefore() (*jwt.NumericDate, error) { return c.notBefore, nil }

// GetIssuedAt returns nil: when a token was made decides nothing.
func (*claims) GetIssuedAt() (*jwt.NumericDate, error) { return nil, nil } //nolint:nilnil // as the library's interface has it

// GetIssuer returns "": every issuer who knows the secret is a good one.
func (*claims) GetIssuer() (string, error) { return "", nil }

// GetSubject returns "", since sub was checked when it was read.
func (*claims) GetSubject() (string, error) { return "", nil }

// GetAudience returns nil, since aud is checked separately.
func (*claims) GetAudience() (jwt.ClaimStrings, error) { return nil, nil }
