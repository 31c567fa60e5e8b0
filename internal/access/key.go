package access

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"presence/internal/presence"
)

const (
	// keyPrefix begins every API key, so that scanners for secrets find keys, and nobody
	// confuses them with tokens.
	keyPrefix = "psk_"

	// hashPrefix begins the hash of a key.
	hashPrefix = "sha256:"

	// keySpeaker is the speaker of all API keys.
	keySpeaker = "key"
)

// A Key is an API key: its hash, and what it grants.
type Key struct {
	// Name is what operators call it.
	Name string

	hash  [sha256.Size]byte
	rules []rule
}

// newKey returns the key for a run, which has the rights in all rooms.
func newKey(name, key string, rights Right) Key {
	return Key{Name: name, hash: sha256.Sum256([]byte(key)), rules: []rule{{presence.Pattern{Prefix: true}, rights}}}
}

// NewKey returns a new API key that is called name, and its line for a file of keys. The
// line gives it all rights in all rooms. The error says which names are legal, and does not
// repeat name: somebody may have passed a key instead.
func NewKey(name string) (key, line string, err error) {
	if err := checkName(name); err != nil {
		return "", "", err
	}
	key = keyPrefix + rand.Text()
	hash := sha256.Sum256([]byte(key))
	return key, name + " " + hashPrefix + hex.EncodeToString(hash[:]) + " rooms=* rights=read,write", nil
}

// checkName returns nil for a legal name of a key.
func checkName(name string) error {
	if presence.CheckID(name) != nil || strings.Contains(name, keyPrefix) {
		return errors.New("the NAME of a key is 1 to 128 characters of A-Z, a-z, 0-9 and _.:@|+=~-, and not the key")
	}
	return nil
}

// ParseKeys reads the lines of a file of API keys:
//
//	NAME sha256:HEX rooms=PATTERN,… rights=read,write
//
// HEX is the SHA-256 of the whole key. The right read is to observe, write to join and
// to remove. Blank lines are ignored; # at the beginning of a field begins a comment.
// The error names the line and its mistake, without the content of the line.
func ParseKeys(text string) ([]Key, error) {
	var keys []Key
	lines := map[[sha256.Size]byte]int{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		fields := strings.Fields(line)
		for i, field := range fields {
			if strings.HasPrefix(field, "#") {
				fields = fields[:i]
				break
			}
		}
		if len(fields) == 0 {
			continue
		}
		key, err := parseKey(fields)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if other := lines[key.hash]; other != 0 {
			return nil, fmt.Errorf("line %d: this key stands in line %d, too", number, other)
		}
		lines[key.hash] = number
		keys = append(keys, key)
	}
	return keys, nil
}

// parseKey reads the fields of a line.
func parseKey(fields []string) (Key, error) {
	if len(fields) != 4 {
		return Key{}, errors.New("a line is NAME sha256:HEX rooms=PATTERN,… rights=read,write, with blanks between these four only")
	}
	k := Key{Name: fields[0]}
	if err := checkName(k.Name); err != nil {
		return Key{}, err
	}
	text, ok := strings.CutPrefix(fields[1], hashPrefix)
	hash, err := hex.DecodeString(text)
	if !ok || err != nil || len(hash) != len(k.hash) {
		return Key{}, errors.New("the second field must be sha256: and the SHA-256 of the whole key in 64 hexadecimal digits")
	}
	copy(k.hash[:], hash)
	rooms, ok := strings.CutPrefix(fields[2], "rooms=")
	if !ok {
		return Key{}, errors.New("the third field must be rooms= and patterns with commas between them, such as rooms=lobby,team-*")
	}
	patterns, err := presence.ParsePatterns(strings.Split(rooms, ","))
	if err != nil {
		return Key{}, fmt.Errorf("rooms=: %w", err)
	}
	names, ok := strings.CutPrefix(fields[3], "rights=")
	if !ok {
		return Key{}, errors.New("the fourth field must be rights=read, rights=write or rights=read,write")
	}
	var rights Right
	for name := range strings.SplitSeq(names, ",") {
		switch name {
		case "read":
			rights |= Observe
		case "write":
			rights |= Join | Remove
		default:
			return Key{}, errors.New("rights= must be read, write or both with a comma between them")
		}
	}
	for _, p := range patterns {
		k.rules = append(k.rules, rule{p, rights})
	}
	return k, nil
}

// find returns the key of a credential, or nil. The time it takes reveals only the number
// of keys.
func (a *Access) find(credential string) *Key {
	hash := sha256.Sum256([]byte(credential))
	var found *Key
	keys := *a.keys.Load()
	for i := range keys {
		if subtle.ConstantTimeCompare(hash[:], keys[i].hash[:]) == 1 {
			found = &keys[i]
		}
	}
	return found
}
