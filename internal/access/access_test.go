package access

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	testKey    = "psk_ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	testSecret = "a secret of a test, long enough to be one"
)

// line is a line of the keys file for key.
func line(name, key, rooms, rights string) string {
	hash := sha256.Sum256([]byte(key))
	return name + " sha256:" + hex.EncodeToString(hash[:]) + " rooms=" + rooms + " rights=" + rights + "\n"
}

// sign returns a token with the claims, signed with the secret of the tests.
func sign(t testing.TB, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(testSecret))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// rooms is the claim presence with rooms alone.
func rooms(patterns map[string]any) map[string]any { return map[string]any{"rooms": patterns} }

// inAnHour is when most tokens of the tests expire.
func inAnHour() int64 { return time.Now().Add(time.Hour).Unix() }

// open returns an Access with the keys of a file and the secret of the tests.
func open(t testing.TB, file string, o Options) *Access {
	t.Helper()
	var err error
	if o.Keys, err = ParseKeys(file); err != nil {
		t.Fatal(err)
	}
	o.TokenSecret = []byte(testSecret)
	return newAccess(t, o)
}

// newAccess returns an Access with these options.
func newAccess(t testing.TB, o Options) *Access {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// request is one with these Authorization headers.
func request(authorization ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v1/rooms/lobby", nil)
	r.Header["Authorization"] = authorization
	return r
}

// grant returns the grant of a request with these Authorization headers.
func grant(t *testing.T, a *Access, authorization ...string) *Grant {
	t.Helper()
	g, err := a.Grant(request(authorization...), false)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// demandRefusal fails the test unless err is a refusal of that kind and for that reason,
// with a sentence that tells no secret. what says what was tried.
func demandRefusal(t *testing.T, what string, err error, kind Kind, reason Reason) {
	t.Helper()
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		t.Errorf("%s: %v is no refusal", what, err)
		return
	}
	if refusal.Kind != kind || refusal.Reason != reason || !strings.HasSuffix(refusal.Detail, ".") {
		t.Errorf("%s: got kind %d for %s, want %d for %s: %s", what, refusal.Kind, refusal.Reason, kind, reason, refusal.Detail)
	}
	if strings.Contains(refusal.Detail, testKey[4:]) || strings.Contains(refusal.Detail, testSecret) {
		t.Errorf("%s: the detail tells a secret: %s", what, refusal.Detail)
	}
}

func TestEachCredentialGrantsItsRightsAndNoOthers(t *testing.T) {
	a := open(t, line("writes", testKey, "lobby,team-*", "write")+line("reads", "psk_2", "lobby", "read")+line("all", "psk_3", "*", "read,write"), Options{PublicRooms: []string{"open"}})
	token := sign(t, jwt.MapClaims{
		"sub": "42", "exp": inAnHour(),
		"presence": rooms(map[string]any{
			"lobby": []string{"observe", "join", "remove", "fly"}, "team-*": []string{"observe"}, "team-1": []string{"join"}, "empty": nil,
		}),
	})
	const write, everything = Join | Remove, Observe | Join | Remove
	for name, test := range map[string]struct {
		authorization []string
		speaker       string
		rights        map[string]Right
	}{
		"nobody":    {nil, "", map[string]Right{"open": Observe}},
		"write key": {[]string{"Bearer " + testKey}, "key", map[string]Right{"open": Observe, "lobby": write, "team-1": write, "team-": write}},
		"read key":  {[]string{"BEARER  psk_2 "}, "key", map[string]Right{"open": Observe, "lobby": Observe}},
		"all key": {[]string{"Bearer psk_3"}, "key", map[string]Right{
			"open": everything, "lobby": everything, "team-1": everything, "team-": everything, "team": everything, "lobby2": everything, "Lobby": everything, "empty": everything,
		}},
		"token":         {[]string{"bearer " + token}, "token:42", map[string]Right{"open": Observe, "lobby": Observe | Join, "team-1": Observe | Join, "team-": Observe}},
		"without rooms": {[]string{"Bearer " + sign(t, jwt.MapClaims{"sub": "43", "exp": inAnHour()})}, "token:43", map[string]Right{"open": Observe}},
	} {
		g := grant(t, a, test.authorization...)
		if g.Speaker != test.speaker || g.Key != (test.speaker == "key") || g.Token != strings.HasPrefix(test.speaker, "token:") {
			t.Errorf("%s: speaker %q (key %v, token %v), want %q", name, g.Speaker, g.Key, g.Token, test.speaker)
		}
		for _, room := range []string{"open", "lobby", "team-1", "team-", "team", "lobby2", "Lobby", "empty"} {
			for _, right := range []Right{Observe, Join, Remove} {
				want := test.rights[room]&right != 0
				if got := g.May(right, room); got != want {
					t.Errorf("%s: May(%v, %s) = %v", name, right, room, got)
				}
				if err := g.Need(right, room); want && err != nil {
					t.Errorf("%s: Need(%v, %s): %v", name, right, room, err)
				} else if !want && test.speaker == "" {
					demandRefusal(t, name+" in "+room, err, Unauthorized, ReasonNoCredentials)
				} else if !want {
					demandRefusal(t, name+" in "+room, err, Forbidden, ReasonNoRight)
				}
			}
		}
	}
}

func TestEveryRoomIsPublicUnlessSaidOtherwise(t *testing.T) {
	for _, test := range []struct {
		public []string
		want   map[string]bool
	}{
		{nil, map[string]bool{"lobby": true, "x": true}},
		{[]string{}, map[string]bool{"lobby": false, "x": false}},
		{[]string{"*"}, map[string]bool{"lobby": true, "x": true}},
		{[]string{"lobby", "y*"}, map[string]bool{"lobby": true, "x": false, "y": true, "yes": true}},
	} {
		g := grant(t, newAccess(t, Options{PublicRooms: test.public}))
		for room, want := range test.want {
			if g.May(Observe, room) != want || g.May(Join, room) || g.May(Remove, room) {
				t.Errorf("public rooms %q: %s may be observed: %v; and more: %v", test.public, room, !want, g.May(Join, room))
			}
		}
	}
	for _, bad := range []string{"", "a b", "*a", "a*b", "**", "a.b", strings.Repeat("x", 65), strings.Repeat("x", 65) + "*"} {
		if _, err := New(Options{PublicRooms: []string{"lobby", bad}}); err == nil {
			t.Errorf("the pattern %q was accepted", bad)
		}
	}
}

func TestKeysChangeWhileTheyAreUsed(t *testing.T) {
	a := open(t, line("one", testKey, "*", "read"), Options{PublicRooms: []string{}})
	token := sign(t, jwt.MapClaims{"sub": "42", "exp": inAnHour()})
	other := sign(t, jwt.MapClaims{"sub": "43", "exp": inAnHour()})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if g := grant(t, a, "Bearer "+testKey); !g.May(Observe, "lobby") {
					t.Error("a key that stands in all files is refused")
				}
				_, _ = a.Token(token)
			}
		})
	}
	for i := range 200 {
		keys, err := ParseKeys(line("one", testKey, "*", "read") + line("two", fmt.Sprint("psk_", i), "*", "read"))
		if err != nil {
			t.Fatal(err)
		}
		a.SetKeys(keys)
		a.SetTokenSecret(fmt.Append(nil, "the secret of a test, number ", i))
	}
	wg.Wait()
	if _, err := a.Token(other); err == nil {
		t.Error("a token of a former secret is accepted")
	}
}

func TestBadCredentialsAreRefusedWhereNoneAreNeeded(t *testing.T) {
	a := open(t, line("backend", testKey, "*", "read,write"), Options{})
	token := sign(t, jwt.MapClaims{"sub": "42", "exp": inAnHour()})
	for name, test := range map[string]struct {
		authorization []string
		reason        Reason
	}{
		"no scheme":        {[]string{testKey}, ReasonMalformed},
		"another scheme":   {[]string{"Basic dXNlcjpwYXNz"}, ReasonMalformed},
		"the scheme alone": {[]string{"Bearer"}, ReasonMalformed},
		"blank":            {[]string{"Bearer  "}, ReasonMalformed},
		"empty":            {[]string{""}, ReasonMalformed},
		"two":              {[]string{"Bearer " + testKey, "Bearer " + testKey}, ReasonMalformed},
		"unknown key":      {[]string{"Bearer psk_other"}, ReasonUnknownKey},
		"more of a key":    {[]string{"Bearer " + testKey + "x"}, ReasonUnknownKey},
		"less of a key":    {[]string{"Bearer " + testKey[:len(testKey)-1]}, ReasonUnknownKey},
		"empty key":        {[]string{"Bearer psk_"}, ReasonUnknownKey},
		"half a token":     {[]string{"Bearer " + token[:len(token)/2]}, ReasonBadToken},
		"text":             {[]string{"Bearer lobby"}, ReasonBadToken},
		"two in one":       {[]string{"Bearer " + testKey + ", Bearer " + testKey}, ReasonUnknownKey},
	} {
		for _, query := range []bool{false, true} {
			g, err := a.Grant(request(test.authorization...), query)
			if g != nil {
				t.Errorf("%s: granted %+v", name, g)
			}
			demandRefusal(t, name, err, Unauthorized, test.reason)
		}
		if a.Sender(request(test.authorization...)).Key {
			t.Errorf("%s: is a key", name)
		}
	}
	if !a.Sender(request("Bearer "+testKey)).Key || a.Sender(request("Bearer "+token)).Key || a.Sender(request()).Key {
		t.Error("a key is not told from others")
	}
}

func TestTokenInTheAddress(t *testing.T) {
	a := open(t, line("backend", testKey, "*", "read,write"), Options{})
	token := sign(t, jwt.MapClaims{"sub": "42", "exp": inAnHour()})
	ask := func(query string, allowed bool, authorization ...string) (*Grant, error) {
		r := request(authorization...)
		r.URL.RawQuery = query
		return a.Grant(r, allowed)
	}
	if g, err := ask("mode=count&access_token="+token, true); err != nil || g.Speaker != "token:42" {
		t.Errorf("a token in the address: %+v, %v", g, err)
	}
	for _, query := range []string{"access_token=" + token, "access_token=x"} {
		if g, err := ask(query, false); err != nil || g.Speaker != "" {
			t.Errorf("a token in an address that takes none: %+v, %v", g, err)
		}
	}
	for query, reason := range map[string]Reason{
		"access_token=":  ReasonBadToken,
		"access_token":   ReasonBadToken,
		"access_token=x": ReasonBadToken,
		"access_token=" + url.QueryEscape(testKey):              ReasonBadToken, // never taken from there
		"access_token=" + token + "&access_token=" + token:      ReasonMalformed,
		"a=%zz&access_token=" + token[:len(token)-1] + "&b=%zz": ReasonBadToken,
	} {
		_, err := ask(query, true)
		demandRefusal(t, query, err, Unauthorized, reason)
	}
	for _, authorization := range []string{"Bearer " + testKey, "Bearer " + token} {
		_, err := ask("access_token="+token, true, authorization)
		demandRefusal(t, "two credentials", err, Unauthorized, ReasonMalformed)
	}
}

func TestTokensInBodiesAreTokensAlone(t *testing.T) {
	a := open(t, line("backend", testKey, "*", "read,write"), Options{})
	if g, err := a.Token(sign(t, jwt.MapClaims{"sub": "42", "exp": inAnHour()})); err != nil || g.Speaker != "token:42" || !g.May(Observe, "lobby") {
		t.Errorf("a token: %+v, %v", g, err)
	}
	for _, bad := range []string{"", testKey, "Bearer x"} {
		_, err := a.Token(bad)
		demandRefusal(t, bad, err, Unauthorized, ReasonBadToken)
	}
}

func TestTokenSpeaksForItsUserAlone(t *testing.T) {
	a := open(t, line("backend", testKey, "*", "read,write"), Options{})
	named := grant(t, a, "Bearer "+sign(t, jwt.MapClaims{"sub": "42", "name": "Zoë  Ann", "exp": inAnHour()}))
	free := grant(t, a, "Bearer "+sign(t, jwt.MapClaims{"sub": "42", "exp": inAnHour()}))
	illegal := grant(t, a, "Bearer "+sign(t, jwt.MapClaims{"sub": "42", "name": "a\x00b", "exp": inAnHour()}))
	key := grant(t, a, "Bearer "+testKey)
	for _, test := range []struct {
		what string
		err  error
		ok   bool
	}{
		{`named.CheckUser("42")`, named.CheckUser("42"), true},
		{`named.CheckUser("43")`, named.CheckUser("43"), false},
		{`named.CheckUser("")`, named.CheckUser(""), false},
		{`key.CheckUser("43")`, key.CheckUser("43"), true},
		{`named.CheckName("Zoë Ann")`, named.CheckName("Zoë Ann"), true}, // one name, written in two ways
		{`named.CheckName(" Zoe\u0308 Ann ")`, named.CheckName(" Zoe\u0308 Ann "), true},
		{`named.CheckName("zoë ann")`, named.CheckName("zoë ann"), false},
		{`named.CheckName("Ben")`, named.CheckName("Ben"), false},
		{`named.CheckName("")`, named.CheckName(""), false},
		{`free.CheckName("Ben")`, free.CheckName("Ben"), true},
		{`illegal.CheckName("a\x00b")`, illegal.CheckName("a\x00b"), true}, // no legal name: that is told elsewhere
		{`illegal.CheckName("ab")`, illegal.CheckName("ab"), false},
		{`key.CheckName("Ben")`, key.CheckName("Ben"), true},
	} {
		if test.ok && test.err != nil {
			t.Errorf("%s: %v", test.what, test.err)
		} else if !test.ok {
			demandRefusal(t, test.what, test.err, Forbidden, ReasonOtherUser)
		}
	}
}

func TestRefusalsSayWhichSettingsOpenTheAPI(t *testing.T) {
	keys, _ := ParseKeys(line("backend", testKey, "*", "read,write"))
	for name, test := range map[string]struct {
		options Options
		run     bool
		detail  string
	}{
		"nothing":           {Options{}, false, "start it with -api-keys-file, -token-secret-file or -token-jwks"},
		"embedded":          {Options{Embedded: true}, true, "printed when it started"},
		"embedded, keys":    {Options{Embedded: true, Keys: keys}, false, "that has the right"},
		"embedded, secret":  {Options{Embedded: true, TokenSecret: []byte(testSecret)}, false, "that has the right"},
		"embedded, no keys": {Options{Embedded: true, Configured: true}, false, "that has the right"},
		"keys":              {Options{Keys: keys}, false, "that has the right"},
	} {
		a := newAccess(t, test.options)
		g := grant(t, a)
		for _, right := range []Right{Join, Remove} {
			err := g.Need(right, "lobby")
			demandRefusal(t, name, err, Unauthorized, ReasonNoCredentials)
			if !strings.Contains(err.Error(), test.detail) {
				t.Errorf("%s: %q does not say %q", name, err, test.detail)
			}
		}
		if (a.RunKey() != "") != test.run {
			t.Errorf("%s: the key of this run is %q", name, a.RunKey())
		}
	}
}

func TestKeyOfARunHasAllRights(t *testing.T) {
	a, b := newAccess(t, Options{Embedded: true}), newAccess(t, Options{Embedded: true})
	if !strings.HasPrefix(a.RunKey(), "psk_") || len(a.RunKey()) < 4+26 || a.RunKey() == b.RunKey() {
		t.Errorf("keys %q and %q", a.RunKey(), b.RunKey())
	}
	g := grant(t, a, "Bearer "+a.RunKey())
	if !g.Key || !g.May(Observe, "lobby") || !g.May(Join, "x") || !g.May(Remove, "y") {
		t.Errorf("granted %+v", g)
	}
	_, err := b.Grant(request("Bearer "+a.RunKey()), false)
	demandRefusal(t, "the key of another run", err, Unauthorized, ReasonUnknownKey)
}

func TestRefusalsAreCountedByReason(t *testing.T) {
	registry := prometheus.NewRegistry()
	a := open(t, "", Options{Registerer: registry, PublicRooms: []string{}})
	count := func() map[string]float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, family := range families {
			if family.GetName() != "presence_grants_refused_total" {
				continue
			}
			for _, m := range family.GetMetric() {
				got[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
		return got
	}
	want := map[string]float64{}
	for _, reason := range []Reason{
		ReasonNoCredentials, ReasonMalformed, ReasonUnknownKey, ReasonBadToken, ReasonExpiredToken, ReasonNoRight, ReasonOtherUser, ReasonWatched,
	} {
		want[string(reason)] = 0
	}
	if got := count(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("at the start %v, want %v", got, want)
	}
	_, _ = a.Grant(request("Bearer psk_x"), false)
	_, _ = a.Grant(request("Bearer x"), false)
	_, _ = a.Grant(request("x"), false)
	_, _ = a.Grant(request("Bearer "+sign(t, jwt.MapClaims{"sub": "42", "exp": 1})), false)
	g := grant(t, a, "Bearer "+sign(t, jwt.MapClaims{"sub": "42", "name": "Ann", "exp": inAnHour()}))
	_, _ = g.Need(Join, "lobby"), g.CheckUser("43")
	_ = g.CheckName("Ben")
	_ = g.May(Join, "lobby") // asks, and refuses nothing
	_ = grant(t, a).Need(Observe, "lobby")
	for i := range MaxWatched + 1 {
		_, _ = a.Watch(g, "address", fmt.Sprint("r", i))
	}
	for reason := range want {
		want[reason] = 1
	}
	want[string(ReasonOtherUser)] = 2
	if got := count(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

func TestOneAddressWatches200Rooms(t *testing.T) {
	a := open(t, line("backend", testKey, "*", "read"), Options{})
	nobody, key := grant(t, a), grant(t, a, "Bearer "+testKey)
	var watches []*Watch
	watch := func(rooms ...string) {
		t.Helper()
		w, err := a.Watch(nobody, "a", rooms...)
		if err != nil {
			t.Fatalf("after %d: %v", len(watches), err)
		}
		watches = append(watches, w)
	}
	refused := func(rooms ...string) {
		t.Helper()
		_, err := a.Watch(nobody, "a", rooms...)
		demandRefusal(t, fmt.Sprint(rooms), err, Limited, ReasonWatched)
	}
	for i := range MaxWatched - 2 {
		watch(fmt.Sprint("r", i))
	}
	watch("r0", "r1", "r2", "r0") // one stream of several rooms, none of them new
	refused("n1", "n2", "n3")     // all or none
	watch("n1", "n2", "n1")
	for range 1000 {
		watch("r5") // any number of streams of one room
	}
	refused("n3")
	refused("r5", "n3")
	if _, err := a.Watch(nobody, "b", "n3"); err != nil {
		t.Errorf("another address: %v", err)
	}
	for i := range 2 * MaxWatched {
		if w, err := a.Watch(key, "a", fmt.Sprint("k", i)); err != nil {
			t.Fatalf("a key is limited: %v", err)
		} else {
			w.Release()
		}
	}
	watches[0].Release() // r0 has a second stream
	watches[0].Release()
	refused("n3")
	watches[3].Release() // r3 has not
	watches[3].Release()
	watch("n3")
	refused("n4")
	for _, w := range watches {
		w.Release()
	}
	if left := a.watched.rooms; len(left) != 1 || len(left["b"]) != 1 {
		t.Errorf("what is left is %v, want one room from b", left)
	}
}

func TestWatchesAreCountedUnderConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAccess(t, Options{})
		nobody := grant(t, a)
		for i := range 50 {
			go func() {
				for j := range 20 {
					if w, err := a.Watch(nobody, "a", fmt.Sprint("r", j), fmt.Sprint("r", i)); err == nil {
						w.Release()
					}
				}
			}()
		}
		synctest.Wait()
		if len(a.watched.rooms) != 0 {
			t.Errorf("what is left is %v", a.watched.rooms)
		}
	})
}

// FuzzAuthorization holds: whatever stands in the header, it is granted nothing but by
// a key or a token that is good, and what is refused is a refusal.
func FuzzAuthorization(f *testing.F) {
	a := open(f, line("backend", testKey, "*", "read,write"), Options{PublicRooms: []string{}})
	for _, seed := range []string{"", "Bearer", "Bearer " + testKey, "bearer\t" + testKey, "Basic x", "Bearer a.b.c", "Bearer psk_\x00", "Bearer eyJhbGciOiJub25lIn0.e30."} {
		f.Add(seed, seed, true)
	}
	f.Fuzz(func(t *testing.T, header, query string, inAddress bool) {
		r := request(header)
		r.URL.RawQuery = "access_token=" + query
		g, err := a.Grant(r, inAddress)
		if (g == nil) == (err == nil) {
			t.Fatalf("granted %+v, %v", g, err)
		}
		var refusal *Refusal
		switch {
		case err != nil:
			if !errors.As(err, &refusal) || refusal.Kind != Unauthorized {
				t.Errorf("refused with %v", err)
			}
		case !g.Key || !strings.Contains(header, testKey) || !a.Sender(r).Key:
			t.Errorf("%q was granted %+v", header, g)
		}
	})
}
