package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"presence/internal/presence"
)

// signRaw returns a token of this header and these claims, signed as HS256 is,
// whatever the header says.
func signRaw(header, claims, secret string) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(header)) + "." + encode([]byte(claims))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

// hs256 is the header of our tokens.
const hs256 = `{"alg":"HS256","typ":"JWT"}`

func TestTokenTellsItsUser(t *testing.T) {
	a := open(t, "", Options{})
	exp := time.Now().Add(time.Hour).Truncate(time.Second)
	claims := fmt.Sprintf(`{"sub":"user:42@example.org","exp":%d,"name":"Ann","iat":99999999999,"nbf":1,"aud":["other"],"iss":"x","more":{},
		"presence":{"rooms":{"lobby":["observe"]},"meta":{ "color" : "teal", "n": 12345678901234567890 },"more":1}}`, exp.Unix())
	for _, header := range []string{hs256, `{"alg":"HS256"}`, `{"alg":"HS256","kid":"1","typ":"at+jwt"}`} {
		g, err := a.Token(signRaw(header, claims, testSecret))
		if err != nil {
			t.Fatal(err)
		}
		if g.User != "user:42@example.org" || g.Speaker != "token:user:42@example.org" || g.Name != "Ann" || !g.Expires.Equal(exp) ||
			g.Meta != `{"color":"teal","n":12345678901234567890}` {
			t.Errorf("%s: %+v", header, g)
		}
	}
	for claims, meta := range map[string]string{
		`"presence":{}`:                          "",
		`"presence":null`:                        "",
		`"presence":{"meta":null}`:               "",
		`"presence":{"meta":{}}`:                 "",
		`"presence":{"meta":{ } , "rooms":null}`: "",
		`"presence":{"meta":{"x":"` + strings.Repeat("y", 1024-8) + `"   }}`:   `{"x":"` + strings.Repeat("y", 1024-8) + `"}`,
		`"presence":{"meta":{"x":"a\nb\u2028<"}}`:                              `{"x":"a\nb\u2028<"}`,
		`"name":null,"presence":{"rooms":{}, "meta":{"a":{"b":[1, 2, null]}}}`: `{"a":{"b":[1,2,null]}}`,
	} {
		g, err := a.Token(signRaw(hs256, fmt.Sprintf(`{"sub":"42","exp":%d.75,%s}`, exp.Unix(), claims), testSecret))
		if err != nil || g.Meta != meta || g.Name != "" || !g.Expires.Equal(exp) {
			t.Errorf("%s: %+v, %v", claims, g, err)
		}
	}
}

func TestBadTokensAreRefused(t *testing.T) {
	a := open(t, "", Options{})
	now := time.Now()
	good := fmt.Sprintf(`{"sub":"42","exp":%d}`, now.Add(time.Hour).Unix())
	token := signRaw(hs256, good, testSecret)
	if _, err := a.Token(token); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	signed := func(claims string) string { return signRaw(hs256, claims, testSecret) }
	claim := func(text string) string { return signed(good[:len(good)-1] + "," + text + "}") }
	lastByte := func(s string) string {
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		i := strings.IndexByte(alphabet, s[len(s)-1])
		return s[:len(s)-1] + alphabet[i^1:i^1+1] // differs in bits that encode nothing
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	with := func(method jwt.SigningMethod, key any) string {
		s, err := jwt.NewWithClaims(method, jwt.MapClaims{"sub": "42", "exp": now.Add(time.Hour).Unix()}).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, test := range map[string]struct {
		token  string
		reason Reason
		detail string
	}{
		"another secret":        {signRaw(hs256, good, testSecret+"x"), ReasonBadToken, "-token-secret-file"},
		"with a newline":        {signRaw(hs256, good, testSecret+"\n"), ReasonBadToken, "-token-secret-file"},
		"empty secret":          {signRaw(hs256, good, ""), ReasonBadToken, "-token-secret-file"},
		"no signature":          {parts[0] + "." + parts[1] + ".", ReasonBadToken, "-token-secret-file"},
		"two parts":             {parts[0] + "." + parts[1], ReasonBadToken, "JSON Web Token"},
		"four parts":            {token + ".", ReasonBadToken, "JSON Web Token"},
		"other claims":          {parts[0] + "." + strings.Split(claim(`"name":"Ben"`), ".")[1] + "." + parts[2], ReasonBadToken, "-token-secret-file"},
		"unused bits":           {lastByte(token), ReasonBadToken, "JSON Web Token"},
		"padding":               {token + "=", ReasonBadToken, "JSON Web Token"},
		"blank":                 {parts[0] + ". " + parts[1] + "." + parts[2], ReasonBadToken, "JSON Web Token"},
		"none":                  {with(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType), ReasonBadToken, "HS256"},
		"None":                  {signRaw(`{"alg":"None"}`, good, testSecret), ReasonBadToken, "HS256"},
		"HS384":                 {with(jwt.SigningMethodHS384, []byte(testSecret)), ReasonBadToken, "HS256"},
		"HS512":                 {with(jwt.SigningMethodHS512, []byte(testSecret)), ReasonBadToken, "HS256"},
		"RS256":                 {with(jwt.SigningMethodRS256, rsaKey), ReasonBadToken, "HS256"},
		"PS256":                 {with(jwt.SigningMethodPS256, rsaKey), ReasonBadToken, "HS256"},
		"ES256":                 {with(jwt.SigningMethodES256, ecKey), ReasonBadToken, "HS256"},
		"RS256 by name alone":   {signRaw(`{"alg":"RS256"}`, good, testSecret), ReasonBadToken, "HS256"},
		"hs256":                 {signRaw(`{"alg":"hs256"}`, good, testSecret), ReasonBadToken, "HS256"},
		"no alg":                {signRaw(`{"typ":"JWT"}`, good, testSecret), ReasonBadToken, "HS256"},
		"alg is a list":         {signRaw(`{"alg":["HS256"]}`, good, testSecret), ReasonBadToken, "HS256"},
		"header null":           {signRaw(`null`, good, testSecret), ReasonBadToken, "HS256"},
		"header list":           {signRaw(`[]`, good, testSecret), ReasonBadToken, "HS256"},
		"critical":              {signRaw(`{"alg":"HS256","crit":["b64"],"b64":false}`, good, testSecret), ReasonBadToken, "HS256"},
		"encrypted":             {"a.b.c.d.e", ReasonBadToken, "JSON Web Token"},
		"huge":                  {claim(`"more":"` + strings.Repeat("x", maxToken) + `"`), ReasonBadToken, "16 KiB"},
		"claims null":           {signed(`null`), ReasonBadToken, ""},
		"claims a list":         {signed(`[]`), ReasonBadToken, ""},
		"claims a text":         {signed(`"x"`), ReasonBadToken, ""},
		"claims no JSON":        {signed(`{`), ReasonBadToken, ""},
		"two values":            {signed(good + good), ReasonBadToken, ""},
		"no exp":                {signed(`{"sub":"42"}`), ReasonBadToken, "exp"},
		"exp null":              {signed(`{"sub":"42","exp":null}`), ReasonBadToken, "exp"},
		"exp text":              {signed(`{"sub":"42","exp":"99999999999"}`), ReasonBadToken, "exp"},
		"exp in milliseconds":   {signed(`{"sub":"42","exp":1767225600000}`), ReasonBadToken, "exp"},
		"exp huge":              {signed(`{"sub":"42","exp":1e300}`), ReasonBadToken, "exp"},
		"exp beyond numbers":    {signed(`{"sub":"42","exp":1e999}`), ReasonBadToken, "exp"},
		"exp negative":          {signed(`{"sub":"42","exp":-1}`), ReasonBadToken, "exp"},
		"exp 0":                 {signed(`{"sub":"42","exp":0}`), ReasonExpiredToken, "expired"},
		"Exp":                   {signed(`{"sub":"42","Exp":99999999999}`), ReasonBadToken, "exp"},
		"expired":               {signed(fmt.Sprintf(`{"sub":"42","exp":%d}`, now.Add(-time.Second).Unix())), ReasonExpiredToken, "expired"},
		"not yet":               {claim(fmt.Sprintf(`"nbf":%d`, now.Add(time.Minute).Unix())), ReasonBadToken, "nbf"},
		"nbf text":              {claim(`"nbf":"soon"`), ReasonBadToken, "nbf"},
		"no sub":                {signed(`{"exp":99999999999}`), ReasonBadToken, "sub"},
		"Sub":                   {signed(`{"Sub":"42","exp":99999999999}`), ReasonBadToken, "sub"},
		"sub null":              {signed(`{"sub":null,"exp":99999999999}`), ReasonBadToken, "sub"},
		"sub empty":             {signed(`{"sub":"","exp":99999999999}`), ReasonBadToken, "sub"},
		"sub number":            {signed(`{"sub":42,"exp":99999999999}`), ReasonBadToken, "sub"},
		"sub with a blank":      {signed(`{"sub":"4 2","exp":99999999999}`), ReasonBadToken, "sub"},
		"sub ..":                {signed(`{"sub":"..","exp":99999999999}`), ReasonBadToken, "sub"},
		"sub long":              {signed(`{"sub":"` + strings.Repeat("4", 129) + `","exp":99999999999}`), ReasonBadToken, "sub"},
		"name number":           {claim(`"name":5`), ReasonBadToken, "name"},
		"presence text":         {claim(`"presence":"lobby"`), ReasonBadToken, "presence"},
		"rooms list":            {claim(`"presence":{"rooms":["lobby"]}`), ReasonBadToken, "presence.rooms"},
		"rights text":           {claim(`"presence":{"rooms":{"lobby":"observe"}}`), ReasonBadToken, "presence.rooms"},
		"bad pattern":           {claim(`"presence":{"rooms":{"a*b":["observe"]}}`), ReasonBadToken, "presence.rooms"},
		"empty pattern":         {claim(`"presence":{"rooms":{"":["observe"]}}`), ReasonBadToken, "presence.rooms"},
		"meta list":             {claim(`"presence":{"meta":[]}`), ReasonBadToken, "presence.meta"},
		"meta text":             {claim(`"presence":{"meta":"x"}`), ReasonBadToken, "presence.meta"},
		"meta long":             {claim(`"presence":{"meta":{"x":"` + strings.Repeat("y", 1025-8) + `"}}`), ReasonBadToken, "1,024"},
		"meta no UTF-8":         {claim(`"presence":{"meta":{"x":"` + "\xff" + `"}}`), ReasonBadToken, "presence.meta"},
		"bytes":                 {"\x00\xff.\n.é", ReasonBadToken, "JSON Web Token"},
		"dots":                  {strings.Repeat(".", 10_000), ReasonBadToken, "JSON Web Token"},
		"nested":                {claim(`"more":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000)), ReasonBadToken, ""},
		"expired and forged":    {signRaw(hs256, `{"sub":"42","exp":1}`, "forged"), ReasonBadToken, "-token-secret-file"},
		"bearer in a bearer":    {"Bearer " + token, ReasonBadToken, "JSON Web Token"},
		"a token in quotes":     {`"` + token + `"`, ReasonBadToken, "JSON Web Token"},
		"empty":                 {"", ReasonBadToken, ""},
		"header without braces": {signRaw(`"alg"`, good, testSecret), ReasonBadToken, "HS256"},
	} {
		g, err := a.Token(test.token)
		if name == "nested" && err == nil { // as deep as encoding/json goes
			continue
		}
		if g != nil {
			t.Errorf("%s: granted %+v", name, g)
		}
		demandRefusal(t, name, err, Unauthorized, test.reason)
		if !strings.Contains(fmt.Sprint(err), test.detail) {
			t.Errorf("%s: %q does not say %q", name, err, test.detail)
		}
	}
}

func TestTokensAreRefusedWhereNoneAreTaken(t *testing.T) {
	a := newAccess(t, Options{Embedded: true})
	for _, secret := range []string{testSecret, ""} {
		_, err := a.Token(signRaw(hs256, `{"sub":"42","exp":99999999999}`, secret))
		demandRefusal(t, "signed with "+secret, err, Unauthorized, ReasonBadToken)
	}
}

func TestTokenExpiresToTheSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := open(t, "", Options{})
		exp := time.Now().Add(10 * time.Second)
		token := sign(t, jwt.MapClaims{"sub": "42", "exp": exp.Unix()})
		late := sign(t, jwt.MapClaims{"sub": "42", "exp": exp.Add(time.Hour).Unix(), "nbf": exp.Unix()})
		time.Sleep(time.Until(exp) - time.Millisecond)
		if _, err := a.Token(token); err != nil {
			t.Errorf("a millisecond before exp: %v", err)
		}
		_, err := a.Token(late)
		demandRefusal(t, "before nbf", err, Unauthorized, ReasonBadToken)
		time.Sleep(time.Millisecond)
		_, err = a.Token(token)
		demandRefusal(t, "at exp", err, Unauthorized, ReasonExpiredToken)
		if _, err := a.Token(late); err != nil {
			t.Errorf("at nbf: %v", err)
		}
	})
}

// FuzzToken holds: whatever claims are signed with the secret, what is granted is a
// user of a legal id until a time to come, with metadata that can be stored.
func FuzzToken(f *testing.F) {
	a := open(f, "", Options{PublicRooms: []string{}})
	for _, seed := range []string{
		`{"sub":"42","exp":99999999999}`,
		`{"sub":"42","exp":99999999999.5,"nbf":1,"name":"Ann","presence":{"rooms":{"lobby":["observe","join"],"team-*":[]},"meta":{"a":[1,{}]}}}`,
		`{"sub":"42","exp":1e11,"presence":{"rooms":null,"meta":null}}`,
		`{"sub":"..","exp":-0,"presence":{"rooms":{"*":["remove"]}}}`,
		`null`, `[]`, `{"exp":1e400}`, "{\"sub\":\"\xff\"}",
	} {
		f.Add(hs256, seed)
		f.Add(`{"alg":"none"}`, seed)
	}
	f.Fuzz(func(t *testing.T, header, claims string) {
		g, err := a.Token(signRaw(header, claims, testSecret))
		if (g == nil) == (err == nil) {
			t.Fatalf("granted %+v, %v", g, err)
		}
		if err != nil {
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Kind != Unauthorized || refusal.Detail == "" {
				t.Errorf("refused with %v", err)
			}
			return
		}
		if !strings.Contains(header, "HS256") {
			t.Errorf("the header %q was accepted", header)
		}
		if presence.CheckID(g.User) != nil || g.Speaker != "token:"+g.User || !g.Token || g.Key {
			t.Errorf("granted %+v", g)
		}
		if !time.Now().Before(g.Expires) || g.Expires.Year() > 9999 {
			t.Errorf("it expires at %v", g.Expires)
		}
		var object map[string]json.RawMessage
		if g.Meta != "" && (json.Unmarshal([]byte(g.Meta), &object) != nil || object == nil || len(g.Meta) > 1024 || strings.Contains(g.Meta, "\n")) {
			t.Errorf("the metadata is %q", g.Meta)
		}
		if g.May(Remove, "lobby") {
			t.Error("a token may remove")
		}
		_ = g.CheckName("Ann")
	})
}
