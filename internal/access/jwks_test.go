package access

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
)

// signers are private keys, one of each kind, made once.
var signers = sync.OnceValue(func() map[string]crypto.Signer {
	r, errR := rsa.GenerateKey(rand.Reader, 2048)
	e, errE := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, d, errD := ed25519.GenerateKey(rand.Reader)
	if err := errors.Join(errR, errE, errD); err != nil {
		panic(err)
	}
	return map[string]crypto.Signer{"RS256": r, "ES256": e, "EdDSA": d}
})

// bits encodes bytes as keys and tokens do.
func bits(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// jwkOf is the public key of a signer as a JSON Web Key, with more members.
func jwkOf(t testing.TB, key crypto.Signer, more map[string]any) map[string]any {
	t.Helper()
	k := map[string]any{}
	switch public := key.Public().(type) {
	case *rsa.PublicKey:
		k["kty"], k["n"], k["e"] = "RSA", bits(public.N.Bytes()), "AQAB"
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		k["kty"], k["crv"], k["x"], k["y"] = "EC", "P-256", bits(point[1:33]), bits(point[33:])
	case ed25519.PublicKey:
		k["kty"], k["crv"], k["x"] = "OKP", "Ed25519", bits(public)
	}
	maps.Copy(k, more)
	return k
}

// setOf is the text of a key set.
func setOf(t testing.TB, keys ...map[string]any) string {
	t.Helper()
	text, err := json.Marshal(map[string]any{"keys": append([]map[string]any{}, keys...)})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// named are the names of a key.
func named(kid string) map[string]any { return map[string]any{"kid": kid} }

// signBy returns a token that is signed with key, whatever its header says.
func signBy(t testing.TB, method jwt.SigningMethod, key any, header, claims map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, jwt.MapClaims{"sub": "42", "exp": inAnHour()})
	maps.Copy(token.Claims.(jwt.MapClaims), claims)
	maps.Copy(token.Header, header)
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// keySetIn returns the key set of a file with that text.
func keySetIn(t testing.TB, text string) (*KeySet, error) {
	t.Helper()
	file := t.TempDir() + "/keys.json"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return OpenKeySet(t.Context(), file, nil)
}

// allKinds is a set with a key of each kind, named by its algorithm.
func allKinds(t testing.TB) string {
	t.Helper()
	var keys []map[string]any
	for alg, key := range signers() {
		keys = append(keys, jwkOf(t, key, map[string]any{"kid": alg, "alg": alg, "use": "sig", "key_ops": []string{"verify"}, "x5t": "more"}))
	}
	return setOf(t, keys...)
}

func TestTokensOfEachKindOfKey(t *testing.T) {
	keys, err := keySetIn(t, allKinds(t))
	if err != nil {
		t.Fatal(err)
	}
	only := newAccess(t, Options{TokenKeys: keys})
	both := newAccess(t, Options{TokenKeys: keys, TokenSecret: []byte(testSecret)})
	for alg, key := range signers() {
		method := jwt.GetSigningMethod(alg)
		for name, header := range map[string]map[string]any{"named": named(alg), "without a name": nil, "an empty name": named("")} {
			for _, a := range []*Access{only, both} {
				if g, err := a.Token(signBy(t, method, key, header, nil)); err != nil || g.User != "42" {
					t.Errorf("%s, %s: %+v, %v", alg, name, g, err)
				}
			}
		}
		for name, header := range map[string]map[string]any{
			"of another name": named("other"), "a number for a name": {"kid": 5}, "an object for a name": {"kid": named(alg)}, "critical": {"kid": alg, "crit": []string{"b64"}, "b64": false},
		} {
			_, err := both.Token(signBy(t, method, key, header, nil))
			demandRefusal(t, alg+", "+name, err, Unauthorized, ReasonBadToken)
		}
		for other := range signers() {
			if other != alg {
				// The key of another kind, and a signature of another kind.
				_, err := both.Token(signBy(t, method, key, named(other), nil))
				demandRefusal(t, alg+" with the key "+other, err, Unauthorized, ReasonBadToken)
				_, err = both.Token(signBy(t, method, key, map[string]any{"alg": other, "kid": other}, nil))
				demandRefusal(t, alg+" called "+other, err, Unauthorized, ReasonBadToken)
			}
		}
	}
	if _, err := both.Token(sign(t, jwt.MapClaims{"sub": "42", "exp": inAnHour()})); err != nil {
		t.Errorf("HS256 beside a set: %v", err)
	}
	_, err = only.Token(sign(t, jwt.MapClaims{"sub": "42", "exp": inAnHour()}))
	demandRefusal(t, "HS256 without a secret", err, Unauthorized, ReasonBadToken)
	if want := "signed with RS256, ES256 or EdDSA and a key of -token-jwks."; !strings.Contains(fmt.Sprint(err), want) {
		t.Errorf("%v does not say %q", err, want)
	}
}

// What is public is no secret, and what is weaker than what is asked for is not taken.
func TestForgedTokensOfPublicKeysAreRefused(t *testing.T) {
	text := allKinds(t)
	keys, err := keySetIn(t, text)
	if err != nil {
		t.Fatal(err)
	}
	var secrets [][]byte
	for _, key := range signers() {
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		secrets = append(secrets, der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), []byte(setOf(t, jwkOf(t, key, nil))))
		if public, ok := key.Public().(ed25519.PublicKey); ok {
			secrets = append(secrets, public, []byte(bits(public)))
		}
		if public, ok := key.Public().(*rsa.PublicKey); ok {
			secrets = append(secrets, public.N.Bytes(), x509.MarshalPKCS1PublicKey(public))
		}
	}
	secrets = append(secrets, []byte(text), nil)
	for _, a := range []*Access{newAccess(t, Options{TokenKeys: keys}), newAccess(t, Options{TokenKeys: keys, TokenSecret: []byte(testSecret)})} {
		for i, secret := range secrets {
			for _, method := range []jwt.SigningMethod{jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512} {
				for _, kid := range []string{"RS256", "ES256", "EdDSA", ""} {
					for _, alg := range []string{method.Alg(), "RS256", "ES256", "EdDSA"} {
						_, err := a.Token(signBy(t, method, secret, map[string]any{"kid": kid, "alg": alg}, nil))
						demandRefusal(t, fmt.Sprintf("%s called %s with the public secret %d", method.Alg(), alg, i), err, Unauthorized, ReasonBadToken)
					}
				}
			}
		}
		rs := signers()["RS256"]
		for _, method := range []jwt.SigningMethod{jwt.SigningMethodRS384, jwt.SigningMethodRS512, jwt.SigningMethodPS256} {
			_, err := a.Token(signBy(t, method, rs, named("RS256"), nil))
			demandRefusal(t, method.Alg(), err, Unauthorized, ReasonBadToken)
		}
		_, err := a.Token(signBy(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, named("RS256"), nil))
		demandRefusal(t, "none", err, Unauthorized, ReasonBadToken)
		for alg, key := range signers() {
			parts := strings.Split(signBy(t, jwt.GetSigningMethod(alg), key, named(alg), nil), ".")
			other := strings.Split(signBy(t, jwt.GetSigningMethod(alg), key, named(alg), map[string]any{"sub": "43"}), ".")
			for name, forged := range map[string]string{
				"without a signature": parts[0] + "." + parts[1] + ".", "with other claims": parts[0] + "." + other[1] + "." + parts[2],
				"zeros for a signature": parts[0] + "." + parts[1] + "." + bits(make([]byte, 64)), "cut": parts[0] + "." + parts[1] + "." + parts[2][:len(parts[2])-4],
			} {
				_, err := a.Token(forged)
				demandRefusal(t, alg+", "+name, err, Unauthorized, ReasonBadToken)
			}
		}
	}
}

func TestKeySetsAreRead(t *testing.T) {
	r, e, d := jwkOf(t, signers()["RS256"], named("r")), jwkOf(t, signers()["ES256"], named("e")), jwkOf(t, signers()["EdDSA"], named("d"))
	with := func(k map[string]any, pairs ...any) map[string]any {
		changed := maps.Clone(k)
		for i := 0; i < len(pairs); i += 2 {
			changed[pairs[i].(string)] = pairs[i+1]
		}
		return changed
	}
	small := bits(bytes.Repeat([]byte{0xff}, 255))
	for name, test := range map[string]struct {
		text string
		want int // keys; -1: no set
	}{
		"three":              {setOf(t, r, e, d), 3},
		"empty":              {`{"keys":[]}`, 0},
		"no keys":            {`{}`, -1},
		"null":               {`{"keys":null}`, -1},
		"a list":             {`[]`, -1},
		"no JSON":            {`-----BEGIN PUBLIC KEY-----`, -1},
		"nothing":            {``, -1},
		"two values":         {setOf(t, r) + setOf(t, r), -1},
		"other kinds":        {`{"keys":[5,null,[],"x",{},{"kty":"oct","k":"c2VjcmV0"},{"kty":5},{"kty":"RSA","kid":{}}]}`, 0},
		"among other kinds":  {`{"keys":[5,{"kty":"oct","k":"c2VjcmV0","kid":"r"},` + strings.TrimPrefix(setOf(t, r), `{"keys":[`), 1},
		"one name twice":     {setOf(t, r, r), 1},
		"padding":            {setOf(t, with(d, "x", d["x"].(string)+"=")), 1},
		"for encryption":     {setOf(t, with(r, "use", "enc"), with(e, "key_ops", []string{"sign"})), 0},
		"other algorithms":   {setOf(t, with(r, "alg", "RS512"), with(r, "alg", "HS256"), with(e, "alg", "RS256"), with(d, "alg", "ES256")), 0},
		"Ed25519 by name":    {setOf(t, with(d, "alg", "Ed25519")), 1},
		"small RSA":          {setOf(t, with(r, "n", small)), 0},
		"huge RSA":           {setOf(t, with(r, "n", bits(bytes.Repeat([]byte{0xff}, 1025)))), 0},
		"even RSA":           {setOf(t, with(r, "n", bits(append(bytes.Repeat([]byte{0xff}, 255), 0xfe)))), 0},
		"exponents":          {setOf(t, with(r, "e", "AQ"), with(r, "e", "Ag"), with(r, "e", ""), with(r, "e", bits([]byte{1, 0, 0, 0, 1})), with(r, "e", "!")), 0},
		"other curves":       {setOf(t, with(e, "crv", "P-384"), with(e, "crv", "secp256k1"), with(d, "crv", "X25519"), with(d, "crv", "Ed448")), 0},
		"not on the curve":   {setOf(t, with(e, "y", e["x"]), with(e, "x", bits(make([]byte, 32)), "y", bits(make([]byte, 32)))), 0},
		"short coordinates":  {setOf(t, with(e, "x", "AQ"), with(d, "x", "AQ"), with(d, "x", bits(make([]byte, 32)))), 0},
		"missing members":    {setOf(t, with(r, "n", ""), with(e, "y", ""), with(d, "x", "")), 0},
		"a private one, too": {setOf(t, with(d, "d", bits(make([]byte, 32)))), 1},
	} {
		keys, err := parseKeySet([]byte(test.text))
		switch {
		case test.want > 0 && (err != nil || keys.count != test.want):
			t.Errorf("%s: %+v, %v", name, keys, err)
		case test.want == 0 && !errors.Is(err, errNoKeys), test.want < 0 && !errors.Is(err, errKeySet):
			t.Errorf("%s: %v", name, err)
		}
	}
	// A token names its key, unless there is one of its kind only.
	for name, test := range map[string]struct {
		text string
		want map[string]bool // by kid
	}{
		"two":             {setOf(t, e, with(e, "kid", "e2")), map[string]bool{"": false, "e": true, "e2": true, "x": false}},
		"one":             {setOf(t, e, r), map[string]bool{"": true, "e": true, "r": false, "x": false}},
		"one, unnamed":    {setOf(t, with(e, "kid", "")), map[string]bool{"": true, "e": true}},
		"one and another": {setOf(t, with(e, "kid", ""), e), map[string]bool{"": false, "e": true, "x": false}},
	} {
		keys, err := parseKeySet([]byte(test.text))
		if err != nil {
			t.Fatal(name, err)
		}
		for kid, want := range test.want {
			if found := keys.find("ES256", kid) != nil; found != want {
				t.Errorf("%s: a token with the kid %q finds its key: %v", name, kid, found)
			}
		}
	}
}

func TestTokensNameTheirAudience(t *testing.T) {
	a := open(t, "", Options{Audience: "presence"})
	for aud, want := range map[string]bool{
		`"presence"`: true, `["other","presence"]`: true, `"Presence"`: false, `["other"]`: false, `[]`: false, `""`: false, `null`: false,
		`5`: false, `{}`: false, `[5]`: false, `["presence",5]`: false, `"presence "`: false,
	} {
		_, err := a.Token(signRaw(hs256, fmt.Sprintf(`{"sub":"42","exp":%d,"aud":%s}`, inAnHour(), aud), testSecret))
		if want && err != nil {
			t.Errorf("aud %s: %v", aud, err)
		} else if !want {
			demandRefusal(t, "aud "+aud, err, Unauthorized, ReasonBadToken)
			if !strings.Contains(fmt.Sprint(err), "aud") {
				t.Errorf("aud %s: %v", aud, err)
			}
		}
	}
	_, err := a.Token(sign(t, jwt.MapClaims{"sub": "42", "exp": inAnHour()}))
	demandRefusal(t, "no aud", err, Unauthorized, ReasonBadToken)
}

// source is where a set of keys comes from in a test.
type source struct {
	mu    sync.Mutex // guards:
	text  string
	err   error
	slow  time.Duration
	reads int
}

func (s *source) set(text string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.err = text, err
}

func (s *source) read(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	text, err, slow := s.text, s.err, s.slow
	s.reads++
	s.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return []byte(text), err
}

func TestKeySetIsReadAgainAndBadOnesLeaveTheOldInForce(t *testing.T) {
	key := signers()["EdDSA"]
	set := func(kids ...string) string {
		var keys []map[string]any
		for _, kid := range kids {
			keys = append(keys, jwkOf(t, key, named(kid)))
		}
		return setOf(t, keys...)
	}
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		registry := prometheus.NewRegistry()
		keys, err := OpenKeySet(t.Context(), "https://user:geheim@keys.example/set?token=geheim", slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		from := &source{err: errors.New("away")}
		keys.read = from.read
		a := newAccess(t, Options{TokenKeys: keys, Registerer: registry})
		tokens := map[string]string{}
		for _, kid := range []string{"1", "2", "3"} {
			tokens[kid] = signBy(t, jwt.SigningMethodEdDSA, key, named(kid), map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()})
		}
		check := func(when string, kid string, want bool) {
			t.Helper()
			if _, err := a.Token(tokens[kid]); (err == nil) != want {
				t.Errorf("%s: key %s: %v", when, kid, err)
			}
		}
		_, err = a.Token(tokens["1"])
		demandRefusal(t, "before anything was read", err, Unauthorized, ReasonBadToken)
		if !strings.Contains(fmt.Sprint(err), "could not be read yet") {
			t.Error(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = keys.Run(ctx) })
		synctest.Wait()
		from.set(set("1"), nil)
		check("a second after the last try", "1", false)
		time.Sleep(retryKeys)
		synctest.Wait()
		check("after the next try", "1", true)

		time.Sleep(askKeys)
		from.set(set("1", "2"), nil)
		check("as soon as it is used", "2", true)
		from.set(set("1", "2", "3"), nil)
		before := from.reads
		for range 100 {
			check("asked for too often", "3", false)
		}
		if from.reads != before {
			t.Errorf("the set was read %d times within %v", from.reads-before, askKeys)
		}
		time.Sleep(askKeys)
		check("a few seconds later", "3", true)

		for what, bad := range map[string]struct {
			text string
			err  error
		}{"away": {"", errors.New("away")}, "empty": {`{"keys":[]}`, nil}, "no set": {"<html>", nil}, "oversized": {strings.Repeat(" ", maxKeySet+1), nil}} {
			from.set(bad.text, bad.err)
			if err := keys.Refresh(t.Context()); err == nil {
				t.Errorf("%s: read", what)
			}
			for range 3 {
				check(what, "3", true)
				time.Sleep(2 * readKeys)
			}
		}
		from.set(set("2"), nil)
		time.Sleep(readKeys)
		synctest.Wait()
		check("withdrawn", "1", false)
		check("still there", "2", true)

		// A source that hangs holds up those alone who name a key that is not known.
		from.mu.Lock()
		from.slow = time.Hour
		from.mu.Unlock()
		time.Sleep(askKeys)
		began := time.Now()
		var waiting sync.WaitGroup
		for range 10 {
			waiting.Go(func() { check("hangs", "1", false) })
		}
		check("hangs", "2", true)
		if took := time.Since(began); took > 0 {
			t.Errorf("a known key waits for %v", took)
		}
		waiting.Wait()
		if took := time.Since(began); took > keysTimeout {
			t.Errorf("an unknown key waits for %v", took)
		}
		stop()
		wg.Wait()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		counted := map[string]float64{}
		for _, family := range families {
			if family.GetName() != "presence_token_keys_reads_total" {
				continue
			}
			for _, m := range family.GetMetric() {
				counted[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
		if counted["ok"] < 4 || counted["error"] < 5 || counted["ok"]+counted["error"] != float64(from.reads) {
			t.Errorf("%d reads were counted as %v", from.reads, counted)
		}
		for _, part := range []string{"https://keys.example", "key set of tokens not read", "err=away"} {
			if !strings.Contains(log.String(), part) {
				t.Errorf("the log does not tell %q:\n%s", part, &log)
			}
		}
		for _, secret := range []string{"geheim", tokens["1"], "<html>"} {
			if strings.Contains(log.String(), secret) {
				t.Errorf("the log tells %q:\n%s", secret, &log)
			}
		}
	})
}

func TestKeySetIsFetched(t *testing.T) {
	text := allKinds(t)
	var mode atomic.Value
	handle := func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case r.URL.Path == "/plain":
			http.Redirect(w, r, mode.Load().(string), http.StatusFound)
		case r.URL.Path == "/away":
			http.Redirect(w, r, "http://192.0.2.1/keys", http.StatusFound)
		case r.URL.Path == "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case r.URL.Path == "/large":
			_, _ = w.Write(append([]byte(text), bytes.Repeat([]byte(" "), maxKeySet)...))
		case r.URL.Path == "/private" && user+password == "anngeheim", r.URL.Path == "/keys":
			_, _ = w.Write([]byte(text))
		default:
			http.Error(w, text, http.StatusNotFound)
		}
	}
	plain, tls := httptest.NewServer(http.HandlerFunc(handle)), httptest.NewTLSServer(http.HandlerFunc(handle))
	defer plain.Close()
	defer tls.Close()
	defer plain.CloseClientConnections()
	mode.Store(plain.URL + "/keys")
	for address, want := range map[string]string{
		plain.URL + "/keys":  "",
		plain.URL + "/plain": "",
		strings.Replace(plain.URL, "://", "://ann:geheim@", 1) + "/private": "",
		strings.Replace(plain.URL, "://", "://ann:falsch@", 1) + "/private": "status 404",
		tls.URL + "/keys":       "",
		tls.URL + "/plain":      "away from https",
		plain.URL + "/away":     "away from https",
		plain.URL + "/loop":     "leads elsewhere too often",
		plain.URL + "/nothing":  "status 404",
		plain.URL + "/large":    "more than 1 MiB",
		"http://127.0.0.1:1/":   "refused",
		"http://geheim@[::1]:x": "it is no address",
	} {
		transport := tls.Client().Transport.(*http.Transport).Clone()
		transport.DisableKeepAlives = true
		got, err := fetcher(address, transport)(t.Context())
		if want == "" && (err != nil || string(got) != text) {
			t.Errorf("%s: %.40s, %v", address, got, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "falsch")) {
			t.Errorf("%s: %v does not say %q", address, err, want)
		}
	}
	keys, err := OpenKeySet(t.Context(), plain.URL+"/keys", nil)
	if err != nil {
		t.Fatal(err)
	}
	a := newAccess(t, Options{TokenKeys: keys}) // the first token has the set be read
	if _, err := a.Token(signBy(t, jwt.SigningMethodES256, signers()["ES256"], nil, nil)); err != nil {
		t.Error(err)
	}
	for source, want := range map[string]string{
		"ftp://host/geheim": "begins with https://", "https://": "begins with", "http://ge heim/": "begins with", "://geheim": "begins with",
		"http://keys.example/geheim": "use https://", "http://geheim@10.0.0.1/": "use https://", "http://localhost.example/geheim": "use https://",
		"/nowhere/keys": "no such file", t.TempDir(): "is a directory",
	} {
		if _, err := OpenKeySet(t.Context(), source, nil); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v does not say %q", source, err, want)
		}
	}
	for text, want := range map[string]string{"": "must be a JSON Web Key Set", `{"keys":[]}`: "none of its keys can be used", strings.Repeat(" ", maxKeySet+1): "more than 1 MiB"} {
		if _, err := keySetIn(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a file of %d bytes: %v does not say %q", len(text), err, want)
		}
	}
}

// FuzzKeySet holds: what is read of a set are keys of the three kinds, each for its own
// algorithm.
func FuzzKeySet(f *testing.F) {
	f.Add(allKinds(f), "RS256", "ES256")
	f.Add(setOf(f, jwkOf(f, signers()["ES256"], nil), jwkOf(f, signers()["EdDSA"], named("x"))), "ES256", "x")
	f.Add(`{"keys":[{"kty":"RSA","n":"","e":"AQAB"},{"kty":"oct","k":"AQAB","alg":"HS256"}]}`, "HS256", "")
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA==","y":"AA"}]}`, "none", "a")
	f.Fuzz(func(t *testing.T, text, alg, kid string) {
		keys, err := parseKeySet([]byte(text))
		if err != nil {
			if keys != nil || strings.Contains(err.Error(), text) && len(text) > 40 {
				t.Errorf("%v, %v", keys, err)
			}
			return
		}
		if keys.count != len(keys.named) || keys.count == 0 {
			t.Errorf("%d keys of %d", len(keys.named), keys.count)
		}
		for name, key := range keys.named {
			if name.kid != "" && !reflect.DeepEqual(keys.find(name.alg, name.kid), key) {
				t.Errorf("the key %v is not found", name)
			}
		}
		ok := false
		switch key := keys.find(alg, kid).(type) {
		case nil:
			ok = true
		case *rsa.PublicKey:
			ok = alg == "RS256" && key.N.BitLen() >= minModulus && key.N.BitLen() <= maxModulus
		case *ecdsa.PublicKey:
			_, err := key.ECDH()
			ok = alg == "ES256" && err == nil
		case ed25519.PublicKey:
			ok = alg == "EdDSA" && len(key) == ed25519.PublicKeySize
		}
		if !ok {
			t.Errorf("for %s: %v", alg, keys.find(alg, kid))
		}
	})
}
