package presence

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
)

const (
	// GenerationSize is the length of a generation in characters: 24 random
	// bits, since it only has to differ from the few that the same tab had
	// within one member TTL.
	GenerationSize = 4

	// IDSize is the length of the ids that [Keys] makes, in characters: 96
	// bits, which two of a billion connections share with a probability of
	// less than 1e-11.
	IDSize = 16

	// maxRoom is the longest room id, in bytes.
	maxRoom = 64

	// maxID is the longest id that callers of the API give, in bytes.
	maxID = 128
)

// CheckRoom returns nil for a legal room id, 1 to 64 characters of
// [A-Za-z0-9_-], and an error that wraps [ErrInvalidRoom] and says what is
// legal for any other.
func CheckRoom(room string) error {
	if isToken(room, 1, maxRoom) {
		return nil
	}
	return fmt.Errorf("%w: a room is 1 to %d characters of A-Z, a-z, 0-9, _ and -", ErrInvalidRoom, maxRoom)
}

// CheckID returns nil for an id that callers of the API may give a user or a connection:
// 1 to 128 characters of [A-Za-z0-9_.:@|+=~-], but not . or .., which are no segments
// of an address. The error for any other wraps [ErrInvalidID] and says what is legal.
func CheckID(id string) error {
	ok := len(id) >= 1 && len(id) <= maxID && id != "." && id != ".."
	for i := 0; ok && i < len(id); i++ {
		ok = isTokenByte(id[i]) || strings.IndexByte(".:@|+=~", id[i]) >= 0
	}
	if ok {
		return nil
	}
	return fmt.Errorf("%w: an id is 1 to %d characters of A-Z, a-z, 0-9 and _.:@|+=~-, and neither \".\" nor \"..\"", ErrInvalidID, maxID)
}

// IsTabKey reports whether key is a legal key of a tab: 16 to 64 characters of
// [A-Za-z0-9_-].
func IsTabKey(key string) bool { return isToken(key, 16, 64) }

// IsID reports whether id has the form of the ids that [Keys] makes.
func IsID(id string) bool { return isToken(id, IDSize, IDSize) }

// isToken reports whether s has from low to high characters, all of the URL
// alphabet of base64.
func isToken(s string, low, high int) bool {
	if len(s) < low || len(s) > high {
		return false
	}
	for i := range len(s) {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return true
}

// isTokenByte reports whether c is of the URL alphabet of base64.
func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// NewGeneration returns a new random generation. Its last three characters are not all the
// same, so that rotating them gives another generation.
func NewGeneration() string {
	for {
		var b [GenerationSize * 3 / 4]byte
		_, _ = rand.Read(b[:]) // never fails: see crypto/rand.Read
		g := base64.RawURLEncoding.EncodeToString(b[:])
		if strings.Count(g[1:], g[1:2]) < GenerationSize-1 {
			return g
		}
	}
}

// httpMark begins the generation of a connection that has no socket. It is none of
// the characters that NewGeneration uses.
const httpMark = "~"

// NewHTTPGeneration returns a new random generation for a connection without a socket,
// which only requests renew. It begins with a mark that no other generation has, and
// has 18 random bits.
func NewHTTPGeneration() string { return httpMark + NewGeneration()[len(httpMark):] }

// IsHTTPGeneration reports whether generation was made by [NewHTTPGeneration].
func IsHTTPGeneration(generation string) bool { return strings.HasPrefix(generation, httpMark) }

// Keys derives ids from a secret that all replicas share, so that the same tab
// has the same connection id on each of them and nobody without the secret can
// name somebody else's connection.
type Keys struct{ secret []byte }

// NewKeys returns the derivation for secret.
func NewKeys(secret []byte) Keys { return Keys{secret: secret} }

// UserID is the id of the user who joins under name in the browser that holds
// session. name must have passed [CleanName].
func (k Keys) UserID(session, name string) string { return k.derive("user", session, name) }

// ConnectionID is the id of one tab, named by its tab key, of the browser that
// holds session. An empty tab key stands for the browser as a whole, as for
// visitors without JavaScript.
func (k Keys) ConnectionID(session, tab string) string { return k.derive("connection", session, tab) }

// SpeakerConnectionID is the stored id of the connection that speaker, a caller of the
// API, calls id. id has passed [CheckID]. No other speaker and no page can name that
// connection.
func (k Keys) SpeakerConnectionID(speaker, id string) string { return k.derive("speaker", speaker, id) }

// signSize is the length of a signature in characters: 132 bits.
const signSize = 22

// Sign returns a signature of parts, which proves to every replica that a replica has
// signed exactly these parts. No part contains a NUL.
func (k Keys) Sign(parts ...string) string { return k.mac("signature", parts...)[:signSize] }

// derive returns the first IDSize characters of the MAC of the parts.
func (k Keys) derive(kind, session, part string) string { return k.mac(kind, session, part)[:IDSize] }

// mac returns the HMAC-SHA256 (RFC 2104) of the parts, base64url-encoded. No part
// contains a NUL.
func (k Keys) mac(kind string, parts ...string) string {
	mac := hmac.New(sha256.New, k.secret)
	mac.Write([]byte(kind + "\x00" + strings.Join(parts, "\x00")))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
