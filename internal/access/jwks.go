package access

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// minModulus and maxModulus bound the size of RSA keys, in bits. Signatures of smaller
	// keys can be forged; checking a signature of a larger key takes too long.
	minModulus = 2048
	maxModulus = 8192
)

// errKeySet says what a set of keys is.
var errKeySet = errors.New(`it must be a JSON Web Key Set: {"keys":[…]}`)

// errNoKeys is returned for a set without a key that can be used.
var errNoKeys = errors.New("none of its keys can be used: RSA of 2,048 to 8,192 bits for RS256, EC of the curve P-256 for ES256, or OKP of Ed25519 for EdDSA, that are for signatures")

// keyName is how a token names the key that it was signed with. kid may be empty.
type keyName struct{ alg, kid string }

// publicKeys are the keys of a set (RFC 7517).
type publicKeys struct {
	named map[keyName]any
	alone map[string]any // by algorithm, where it has one key only
	count int
}

// find returns the key that a token was signed with, or nil. For a token that names no key
// it is the only key of the algorithm. That key also serves tokens that name one, if it has
// no name itself.
func (ks *publicKeys) find(alg, kid string) any {
	if key, ok := ks.named[keyName{alg, kid}]; ok && kid != "" {
		return key
	}
	if _, unnamed := ks.named[keyName{alg, ""}]; kid == "" || unnamed {
		return ks.alone[alg]
	}
	return nil
}

// jwk is a JSON Web Key (RFC 7517, section 4; RFC 7518, section 6; RFC 8037).
type jwk struct {
	Kty    string   `json:"kty"`
	Kid    string   `json:"kid"`
	Alg    string   `json:"alg"`
	Use    string   `json:"use"`
	KeyOps []string `json:"key_ops"`
	Crv    string   `json:"crv"`
	N      string   `json:"n"`
	E      string   `json:"e"`
	X      string   `json:"x"`
	Y      string   `json:"y"`
}

// parseKeySet reads a set of keys, and leaves out keys that can't be used. The error says
// that text is no set, or that no key is left.
func parseKeySet(text []byte) (*publicKeys, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if json.Unmarshal(text, &set) != nil || set.Keys == nil {
		return nil, errKeySet
	}
	ks := &publicKeys{named: map[keyName]any{}, alone: map[string]any{}}
	several := map[string]bool{}
	for _, one := range set.Keys {
		var k jwk
		if json.Unmarshal(one, &k) != nil {
			continue
		}
		alg, key := k.public()
		name := keyName{alg, k.Kid}
		if key == nil || ks.named[name] != nil {
			continue
		}
		ks.named[name] = key
		ks.count++
		if _, ok := ks.alone[alg]; ok {
			several[alg] = true
		}
		ks.alone[alg] = key
	}
	for alg := range several {
		delete(ks.alone, alg)
	}
	if ks.count == 0 {
		return nil, errNoKeys
	}
	return ks, nil
}

// public returns the key and its only algorithm, or nil if the key can't be used.
func (k *jwk) public() (alg string, key any) {
	if k.Use != "" && k.Use != "sig" || k.KeyOps != nil && !slices.Contains(k.KeyOps, "verify") {
		return "", nil
	}
	names := []string{"", jwt.SigningMethodRS256.Alg()}
	switch k.Kty {
	case "RSA":
		key = k.rsa()
	case "EC":
		names[1] = jwt.SigningMethodES256.Alg()
		key = k.ec()
	case "OKP":
		names = []string{"", jwt.SigningMethodEdDSA.Alg(), "Ed25519"} // RFC 9864 names the curve
		key = k.ed25519()
	}
	if key == nil || !slices.Contains(names, k.Alg) {
		return "", nil
	}
	return names[1], key
}

// rsa returns the RSA key, or nil.
func (k *jwk) rsa() any {
	n, e := new(big.Int).SetBytes(decode(k.N)), new(big.Int).SetBytes(decode(k.E))
	if n.BitLen() < minModulus || n.BitLen() > maxModulus || n.Bit(0) == 0 || e.Bit(0) == 0 || !e.IsInt64() || e.Int64() < 3 || e.Int64() > math.MaxInt32 {
		return nil
	}
	return &rsa.PublicKey{N: n, E: int(e.Int64())}
}

// ec returns the key of the curve P-256, or nil.
func (k *jwk) ec() any {
	const size = 32
	x, y := decode(k.X), decode(k.Y)
	if k.Crv != "P-256" || len(x) != size || len(y) != size {
		return nil
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
	if err != nil {
		return nil
	}
	return key
}

// ed25519 returns the key of Ed25519, or nil.
func (k *jwk) ed25519() any {
	x := decode(k.X)
	if k.Crv != "Ed25519" || len(x) != ed25519.PublicKeySize || bytes.Equal(x, make([]byte, len(x))) {
		return nil
	}
	return ed25519.PublicKey(x)
}

// decode returns the bytes that a member of a key stands for, or nil.
func decode(text string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil
	}
	return b
}
