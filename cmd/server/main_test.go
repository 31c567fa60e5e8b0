package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"presence/internal/access"
	"presence/internal/app"
	"presence/internal/redistest"
)

// livetemplate v0.25.0 never stops the goroutine that tidies up its session store.
func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		main()
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/livetemplate/livetemplate.(*MemorySessionStore).cleanupLoop"))
}

// env returns the environment of a test, in place of os.LookupEnv.
func env(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := vars[name]
		return value, ok
	}
}

// buffer is what a program writes while others read it.
type buffer struct {
	mu  sync.Mutex // guards:
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// server is a run of the program.
type server struct {
	url   string // of the pages
	admin string // address of the admin endpoints, or ""
	log   *buffer
	stop  context.CancelFunc
	code  chan int
}

// start runs the program with args on ports that the system chooses, until the
// test ends.
func start(t *testing.T, vars map[string]string, args ...string) *server {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	s := &server{log: &buffer{}, stop: stop, code: make(chan int, 1)}
	args = append([]string{"-listen", "127.0.0.1:0", "-admin-listen", "127.0.0.1:0"}, args...)
	go func() { s.code <- run(ctx, args, env(vars), io.Discard, s.log) }()
	t.Cleanup(func() { s.end(t) })
	redistest.Eventually(t, 30*time.Second, "the server says where it serves", func() bool {
		for line := range strings.Lines(s.log.String()) {
			var entry struct{ Msg, Listen, Admin string }
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "serving" {
				s.url, s.admin = "http://"+entry.Listen, entry.Admin
				return true
			}
		}
		return false
	})
	return s
}

// end stops the program as a signal does, and returns its exit code.
func (s *server) end(t *testing.T) int {
	t.Helper()
	s.stop()
	select {
	case code := <-s.code:
		s.code <- code
		return code
	case <-time.After(10 * time.Second):
		t.Fatalf("does not stop within 10 s:\n%s", s.log)
		return -1
	}
}

// get returns the status and the body that url is answered with.
func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true // nothing is to be left open
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(b)
}

func TestBadSettingIsOneLineAndExitCode2(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("too short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args []string
		env  map[string]string
		want []string // parts of the line: the setting, its value, what is legal
	}{
		"unknown flag":            {args: []string{"-no-such-flag"}, want: []string{"-no-such-flag", "-help lists all"}},
		"argument":                {args: []string{"serve"}, want: []string{`"serve"`, "-help lists all"}},
		"flag without value":      {args: []string{"-listen"}, want: []string{"-listen", "-help lists all"}},
		"listen":                  {args: []string{"-listen", "8080"}, want: []string{"-listen", `"8080"`, "host:port or :port"}},
		"listen empty":            {args: []string{"-listen="}, want: []string{"-listen", `""`, "host:port or :port"}},
		"listen nowhere":          {args: []string{"-listen", "127.0.0.1:99999"}, want: []string{"-listen", `"127.0.0.1:99999"`, "invalid port"}},
		"admin-listen":            {args: []string{"--admin-listen", "here"}, want: []string{"-admin-listen", `"here"`, "host:port"}},
		"redis-url":               {args: []string{"-redis-url", "http://h"}, want: []string{"-redis-url", `"http://`, "unknown scheme"}},
		"redis-url without":       {args: []string{"-redis-url", "localhost:6379"}, want: []string{"-redis-url", "redis-cluster://"}},
		"redis-url of sentinel":   {args: []string{"-redis-url", "redis-sentinel://a,b"}, want: []string{"-redis-url", "redis-sentinel://host1,host2/NAME"}},
		"redis-prefix":            {args: []string{"-redis-prefix", "a b"}, want: []string{"-redis-prefix", `"a b"`, "1 to 64 characters"}},
		"redis-password-file":     {args: []string{"-redis-password-file", missing}, want: []string{"-redis-password-file", missing, "needs -redis-url"}},
		"redis-password-file 2":   {args: []string{"-redis-url", "redis://h", "-redis-password-file", missing}, want: []string{"-redis-password-file", missing, "no such file"}},
		"session-secret-file":     {args: []string{"-session-secret-file", short}, want: []string{"-session-secret-file", short, "at least 16 bytes"}},
		"heartbeat-interval":      {args: []string{"-heartbeat-interval", "soon"}, want: []string{"-heartbeat-interval", `"soon"`, "a duration, such as"}},
		"heartbeat-interval low":  {args: []string{"-heartbeat-interval", "1ms"}, want: []string{"-heartbeat-interval", `"1ms"`, "between 100ms and 1h"}},
		"member-ttl":              {args: []string{"-member-ttl", "19s"}, want: []string{"-member-ttl", `"19s"`, "at least twice the heartbeat interval, which is 10s"}},
		"member-ttl, both":        {args: []string{"-member-ttl", "3s", "-heartbeat-interval", "1501ms"}, want: []string{"-member-ttl", `"3s"`, "twice", "1.501s"}},
		"leave-grace":             {args: []string{"-leave-grace", "-1s"}, want: []string{"-leave-grace", `"-1s"`, "between 0s and 24h"}},
		"coalesce":                {args: []string{"-coalesce", "0"}, want: []string{"-coalesce", `"0s"`, "between 1ms and 1m"}},
		"allowed-origins":         {args: []string{"-allowed-origins", "example.org"}, want: []string{"-allowed-origins", `"example.org"`, "http:// or https://"}},
		"allowed-origins path":    {args: []string{"-allowed-origins", "https://a.org, https://b.org/x"}, want: []string{"-allowed-origins", `"https://b.org/x"`, "nothing else"}},
		"api-origins":             {args: []string{"-api-origins", "https://a.org,example.org"}, want: []string{"-api-origins", `"example.org"`, "it must be *, or origins"}},
		"api-origins path":        {args: []string{"-api-origins", "https://b.org/x"}, want: []string{"-api-origins", `"https://b.org/x"`, "nothing else\n"}},
		"api-origins slash":       {args: []string{"-api-origins", "https://b.org/"}, want: []string{"-api-origins", `"https://b.org/"`, "remove the slash at the end"}},
		"api-origins pattern":     {args: []string{"-api-origins", "https://*.b.org/"}, want: []string{"-api-origins", "it must be *"}},
		"api-keys-file":           {args: []string{"-api-keys-file", missing}, want: []string{"-api-keys-file", missing, "no such file"}},
		"api-keys-file line":      {args: []string{"-api-keys-file", short}, want: []string{"-api-keys-file", short, "line 1: a line is NAME sha256:HEX"}},
		"token-secret-file":       {args: []string{"-token-secret-file", short}, want: []string{"-token-secret-file", short, "at least 16 bytes"}},
		"token-secret-file away":  {args: []string{"-token-secret-file", missing}, want: []string{"-token-secret-file", missing, "no such file"}},
		"token-jwks":              {args: []string{"-token-jwks", missing}, want: []string{"-token-jwks", missing, "no such file"}},
		"token-jwks, no set":      {args: []string{"-token-jwks", short}, want: []string{"-token-jwks", short, "must be a JSON Web Key Set"}},
		"token-jwks, scheme":      {args: []string{"-token-jwks", "ftp://h/keys"}, want: []string{"-token-jwks", `"ftp://…"`, "begins with https://"}},
		"token-jwks, plain":       {args: []string{"-token-jwks", "http://keys.example/set"}, want: []string{"-token-jwks", `"http://…"`, "use https://"}},
		"token-audience":          {args: []string{"-token-audience", "presence"}, want: []string{"-token-audience", `"presence"`, "it needs -token-secret-file or -token-jwks"}},
		"public-rooms":            {args: []string{"-public-rooms", "lobby,a*b"}, want: []string{"-public-rooms", `"a*b"`, "the name of a room, or a prefix"}},
		"page":                    {args: []string{"-page=perhaps"}, want: []string{"-page", `"perhaps"`, "true or false"}},
		"trusted-proxies":         {args: []string{"-trusted-proxies", "10.0.0.0/33"}, want: []string{"-trusted-proxies", `"10.0.0.0/33"`, "a CIDR such as 10.0.0.0/8"}},
		"key-rate":                {args: []string{"-key-rate", "-1"}, want: []string{"-key-rate", `"-1"`, "0 (no limit) or more"}},
		"max-connections":         {args: []string{"-max-connections", "-1"}, want: []string{"-max-connections", `"-1"`, "0 (no limit) or more"}},
		"max-connections-per-ip":  {args: []string{"-max-connections-per-ip", "many"}, want: []string{"-max-connections-per-ip", `"many"`, "a whole number"}},
		"max-rooms":               {args: []string{"-max-rooms", "-5"}, want: []string{"-max-rooms", `"-5"`, "0 (no limit) or more"}},
		"max-members-per-room":    {args: []string{"-max-members-per-room", "1.5"}, want: []string{"-max-members-per-room", `"1.5"`, "a whole number"}},
		"max-members-per-ip":      {args: []string{"-max-members-per-ip", "1.5"}, want: []string{"-max-members-per-ip", `"1.5"`, "a whole number"}},
		"max-rooms-per-ip":        {args: []string{"-max-rooms-per-ip", "1.5"}, want: []string{"-max-rooms-per-ip", `"1.5"`, "a whole number"}},
		"shutdown-timeout":        {args: []string{"-shutdown-timeout", "2h"}, want: []string{"-shutdown-timeout", `"2h0m0s"`, "between 0s and 1h"}},
		"log-level":               {args: []string{"-log-level", "loud"}, want: []string{"-log-level", `"loud"`, "debug, info, warn or error"}},
		"log-format":              {args: []string{"-log-format", "xml"}, want: []string{"-log-format", `"xml"`, "text or json"}},
		"healthcheck":             {args: []string{"-healthcheck=perhaps"}, want: []string{"-healthcheck", `"perhaps"`, "true or false"}},
		"environment, duration":   {env: map[string]string{"PRESENCE_LEAVE_GRACE": "10"}, want: []string{"PRESENCE_LEAVE_GRACE", `"10"`, "a duration, such as"}},
		"environment, number":     {env: map[string]string{"PRESENCE_MAX_ROOMS": "few"}, want: []string{"PRESENCE_MAX_ROOMS", `"few"`, "a whole number"}},
		"environment, member-ttl": {env: map[string]string{"PRESENCE_MEMBER_TTL": "5s"}, want: []string{"-member-ttl", `"5s"`, "twice the heartbeat interval"}},
		"environment, log-level":  {env: map[string]string{"PRESENCE_LOG_LEVEL": "INFO"}, want: []string{"-log-level", `"INFO"`, "debug, info, warn or error"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out buffer
			args := append([]string{"-listen", "127.0.0.1:0", "-admin-listen", ""}, test.args...)
			code := run(t.Context(), args, env(test.env), io.Discard, &out)
			lines := slices.Collect(strings.Lines(out.String()))
			if code != 2 || len(lines) != 1 {
				t.Fatalf("exit code %d and %d lines, want 2 and 1:\n%s", code, len(lines), &out)
			}
			for _, part := range append(test.want, "bad setting: ") {
				if !strings.Contains(lines[0], part) {
					t.Errorf("%q does not contain %q", lines[0], part)
				}
			}
		})
	}
}

func TestBadRedisURLKeepsItsPassword(t *testing.T) {
	var out buffer
	code := run(t.Context(), []string{"-redis-url", "redis://user:hunter2@h:port"}, env(nil), io.Discard, &out)
	if code != 2 || strings.Contains(out.String(), "hunter2") {
		t.Errorf("exit code %d, want 2; printed %q", code, &out)
	}
}

func TestHelpListsAllSettings(t *testing.T) {
	for _, flagName := range []string{"-help", "--help", "-h"} {
		var out buffer
		if code := run(t.Context(), []string{flagName}, env(nil), io.Discard, &out); code != 0 {
			t.Errorf("%s: exit code %d, want 0", flagName, code)
		}
		for _, s := range settings() {
			if !strings.Contains(out.String(), "\n  -"+s.name) || !strings.Contains(out.String(), s.usage) {
				t.Errorf("%s does not list -%s: %s", flagName, s.name, s.usage)
			}
		}
	}
}

func TestServesWithTheEmbeddedStoreAndStops(t *testing.T) {
	s := start(t, nil)
	for path, want := range map[string]string{
		"/":                    "user(s) online",
		"/rooms/tea-break":     "tea-break",
		"/v1/rooms/tea-break":  `"users":0`,
		"/livez":               "ok",
		"/lbz":                 "ok",
		"/v1/rooms/no%20blank": "application/problem+json",
	} {
		status, body := get(t, s.url+path)
		if want == "application/problem+json" {
			if status != http.StatusNotFound {
				t.Errorf("GET %s: %d, want 404", path, status)
			}
		} else if status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("GET %s: %d %q, want 200 with %q", path, status, body, want)
		}
	}
	if code := s.end(t); code != 0 {
		t.Errorf("exit code %d after a graceful stop, want 0:\n%s", code, s.log)
	}
	if !strings.Contains(s.log.String(), `"stopped"`) {
		t.Errorf("the log does not end with the stop:\n%s", s.log)
	}
}

func TestHealthcheck(t *testing.T) {
	s := start(t, nil)
	check := func(addr string) (int, string) {
		var out buffer
		code := run(t.Context(), []string{"-healthcheck", "-admin-listen", addr}, env(nil), io.Discard, &out)
		return code, out.String()
	}
	// Ready as soon as the store has answered once.
	redistest.Eventually(t, 5*time.Second, "the health check of a server that runs exits with 0", func() bool {
		code, _ := check(s.admin)
		return code == 0
	})
	s.end(t)
	if code, said := check(s.admin); code != 1 || strings.Count(said, "\n") != 1 {
		t.Errorf("exit code %d for a server that has stopped, want 1 and one line: %q", code, said)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestHealthcheckOfAServerWithoutRedis(t *testing.T) {
	s := start(t, map[string]string{"PRESENCE_REDIS_URL": "redis://127.0.0.1:1"}, "-shutdown-timeout", "0s")
	var out buffer
	code := run(t.Context(), []string{"-healthcheck", "-admin-listen", s.admin}, env(nil), io.Discard, &out)
	if code != 1 || !strings.Contains(out.String(), "not ready: redis") {
		t.Errorf("exit code %d, want 1, and %q, want the reason", code, &out)
	}
	if code := s.end(t); code != 0 {
		t.Errorf("exit code %d after the stop, want 0:\n%s", code, s.log)
	}
}

func TestAddressInUseIsABadSetting(t *testing.T) {
	s := start(t, nil)
	var out buffer
	addr := strings.TrimPrefix(s.url, "http://")
	code := run(t.Context(), []string{"-listen", addr, "-admin-listen="}, env(nil), io.Discard, &out)
	if code != 2 || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("exit code %d, want 2 and one line: %q", code, &out)
	}
	for _, part := range []string{addr, "another program listens there", "choose another, such as -listen "} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("%q lacks %q", &out, part)
		}
	}
	out = buffer{}
	code = run(t.Context(), []string{"-listen", "127.0.0.1:0", "-admin-listen", s.admin}, env(nil), io.Discard, &out)
	if code != 2 || !strings.Contains(out.String(), "such as -admin-listen ") || !strings.Contains(out.String(), "or none, -admin-listen=") {
		t.Errorf("exit code %d, want 2 and what to do about -admin-listen: %q", code, &out)
	}
}

func TestKeyOfARunIsPrintedOnceAndNotLogged(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a secret of a test, long enough\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^API key for this run: (psk_[A-Z2-7]{26,})$`)
	s := start(t, nil, "-log-level", "debug")
	if code := s.end(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	said := s.log.String()
	found := line.FindAllStringSubmatchIndex(said, -1)
	if len(found) != 1 || strings.Count(said, said[found[0][2]:found[0][3]]) != 1 || found[0][0] > strings.Index(said, `"serving"`) {
		t.Errorf("the key is to be printed once, in a line of its own, before the server says where it serves:\n%s", said)
	}
	for name, args := range map[string][]string{
		"with tokens":      {"-token-secret-file", secret},
		"with a keys file": {"-api-keys-file", os.DevNull},
		"with Redis":       {"-redis-url", "redis://127.0.0.1:1", "-shutdown-timeout", "0s"},
	} {
		s := start(t, nil, args...)
		s.end(t)
		if strings.Contains(s.log.String(), "API key") {
			t.Errorf("%s a key is printed:\n%s", name, s.log)
		}
	}
}

// A file that can't be used leaves what was read before in force; the log says which line
// it is, and nothing of what stands there.
func TestKeysAreReadAgainOnHangup(t *testing.T) {
	dir := t.TempDir()
	keys, secret := filepath.Join(dir, "keys"), filepath.Join(dir, "secret")
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	line := func(key string) string {
		return fmt.Sprintf("%s sha256:%x rooms=* rights=read,write\n", key[4:], sha256.Sum256([]byte(key)))
	}
	token := func(secret string) string {
		text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "42", "exp": time.Now().Add(time.Hour).Unix()}).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	const oldKey, newKey, oldSecret, newSecret = "psk_the-old-one", "psk_the-new-one", "the old secret of a test", "the new secret of a test"
	write(keys, line(oldKey))
	write(secret, oldSecret)
	s := start(t, nil, "-api-keys-file", keys, "-token-secret-file", secret, "-log-level", "debug")
	accepted := func(credential string) bool {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/rooms", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+credential)
		request.Close = true
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		return response.StatusCode != http.StatusUnauthorized
	}
	hangup := func(lines int) {
		t.Helper()
		before := strings.Count(s.log.String(), `read again`)
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		redistest.Eventually(t, 5*time.Second, "the log says what was read", func() bool { return strings.Count(s.log.String(), `read again`) == before+lines })
	}
	demand := func(when string, credentials map[string]bool) {
		t.Helper()
		for credential, want := range credentials {
			if accepted(credential) != want {
				t.Errorf("%s: %s is accepted: %v", when, credential, !want)
			}
		}
	}
	demand("at the start", map[string]bool{oldKey: true, newKey: false, token(oldSecret): true, token(newSecret): false})
	write(keys, "# rotated\n"+line(newKey))
	write(secret, newSecret)
	hangup(2)
	demand("after a change", map[string]bool{oldKey: false, newKey: true, token(oldSecret): false, token(newSecret): true})
	write(keys, line(oldKey)+"billing "+oldKey+" rooms=* rights=read\n")
	write(secret, "short")
	hangup(2)
	demand("after a bad change", map[string]bool{oldKey: false, newKey: true, token(oldSecret): false, token(newSecret): true})
	for _, part := range []string{"line 2: the second field must be sha256:", "at least 16 bytes"} {
		if !strings.Contains(s.log.String(), part) {
			t.Errorf("the log does not say %q:\n%s", part, s.log)
		}
	}
	for _, file := range []string{keys, secret} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	hangup(2)
	demand("without the files", map[string]bool{oldKey: false, newKey: true, token(oldSecret): false, token(newSecret): true})
	write(keys, line(oldKey)+line(newKey))
	write(secret, oldSecret)
	hangup(2)
	demand("when all is right again", map[string]bool{oldKey: true, newKey: true, token(oldSecret): true, token(newSecret): false})
	for _, text := range []string{"psk_", "the-old-one", "secret of a test", token(oldSecret)[:20]} {
		if strings.Contains(s.log.String(), text) {
			t.Errorf("the log tells %q:\n%s", text, s.log)
		}
	}
}

func TestNewAPIKeyIsPrintedWithItsLine(t *testing.T) {
	made := map[string]bool{}
	for range 2 {
		var out, said buffer
		if code := run(t.Context(), []string{"-new-api-key", "billing@shop"}, env(nil), &out, &said); code != 0 {
			t.Fatalf("exit code %d: %s", code, &said)
		}
		parts := regexp.MustCompile(`^(psk_[A-Z2-7]{26,})\n(billing@shop sha256:[0-9a-f]{64} rooms=\* rights=read,write)\n$`).FindStringSubmatch(out.String())
		if parts == nil {
			t.Fatalf("printed %q", &out)
		}
		made[parts[1]] = true
		keys, err := access.ParseKeys(parts[2] + "\n")
		if err != nil {
			t.Fatal(err)
		}
		who, err := access.New(access.Options{Keys: keys, PublicRooms: []string{}})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/v1/rooms/lobby", nil)
		r.Header.Set("Authorization", "Bearer "+parts[1])
		if g, err := who.Grant(r, false); err != nil || !g.May(access.Observe, "lobby") || !g.May(access.Join, "x") || !g.May(access.Remove, "x") {
			t.Errorf("the key has not the rights of its line: %v, %v", g, err)
		}
		for _, part := range []string{"-api-keys-file", "Authorization: Bearer", "SIGHUP", "rooms=", "rights"} {
			if !strings.Contains(said.String(), part) {
				t.Errorf("nothing is said of %s: %s", part, &said)
			}
		}
		if strings.Contains(said.String(), parts[1]) {
			t.Error("the key is told again")
		}
	}
	if len(made) != 2 {
		t.Error("a key was made twice")
	}
	for _, bad := range []string{"", "a b", "psk_ABCDEFGHIJKLMNOP", "..", "#x", "é", strings.Repeat("x", 129), "a\nb sha256:"} {
		var out, said buffer
		code := run(t.Context(), []string{"-new-api-key", bad}, env(nil), &out, &said)
		if code != 2 || out.String() != "" || strings.Count(said.String(), "\n") != 1 || !strings.Contains(said.String(), "bad setting: -new-api-key: the NAME of a key is 1 to 128 characters") {
			t.Errorf("named %q: exit code %d, %q, %q", bad, code, &out, &said)
		}
	}
	// No variable keeps a server from starting.
	s := start(t, map[string]string{"PRESENCE_NEW_API_KEY": "billing"})
	if code := s.end(t); code != 0 {
		t.Errorf("exit code %d with PRESENCE_NEW_API_KEY set", code)
	}
}

func TestVersionIsPrinted(t *testing.T) {
	var out, log buffer
	code := run(t.Context(), []string{"-version"}, env(nil), &out, &log)
	if code != 0 || log.String() != "" || !regexp.MustCompile(`^presence \S+, revision \S+, go1\.\S+\n$`).MatchString(out.String()) {
		t.Errorf("exit code %d, printed %q and %q", code, &out, &log)
	}
	// Images say by such a variable what they hold.
	s := start(t, map[string]string{"PRESENCE_VERSION": "1.2.3"})
	if code := s.end(t); code != 0 {
		t.Errorf("exit code %d with PRESENCE_VERSION set", code)
	}
}

func TestEmptyVariableIsAValueWhereEmptyHasAMeaning(t *testing.T) {
	config := app.Default()
	fs := flag.NewFlagSet("server", flag.ContinueOnError)
	config.Flags(fs)
	vars := map[string]string{}
	for _, s := range settings() {
		vars[s.env] = ""
	}
	if err := parse(fs, nil, env(vars)); err != nil {
		t.Fatal(err)
	}
	want := app.Default()
	want.AdminListen, want.PublicRooms = "", ""
	if config != want {
		t.Errorf("got  %+v\nwant %+v", config, want)
	}
}

func TestEnvironmentIsReadAndFlagsWin(t *testing.T) {
	for _, s := range settings() {
		if s.env == "" {
			continue
		}
		want := "PRESENCE_" + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
		if got := app.EnvName(s.name); got != want {
			t.Errorf("EnvName(%q) = %q, want %q", s.name, got, want)
		}
	}
	vars := env(map[string]string{"PRESENCE_LEAVE_GRACE": "7s", "PRESENCE_LISTEN": ":1", "PRESENCE_MAX_ROOMS": "3", "PRESENCE_LOG_LEVEL": ""})
	config := app.Default()
	fs := flag.NewFlagSet("server", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	config.Flags(fs)
	if err := parse(fs, []string{"-listen", ":2", "--max-rooms=4"}, vars); err != nil {
		t.Fatal(err)
	}
	want := app.Default()
	want.LeaveGrace, want.Listen, want.MaxRooms = 7*time.Second, ":2", 4
	if config != want {
		t.Errorf("got  %+v\nwant %+v", config, want)
	}
	if err := parse(fs, []string{"-help"}, env(nil)); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("parse(-help) = %v", err)
	}
}

// setting is a row of the README's table.
type setting struct{ name, env, value, usage string }

// settings are all settings in the order in which Config has them, and then
// those of this program alone.
func settings() []setting {
	config := app.Default()
	fs := flag.NewFlagSet("server", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	config.Flags(fs)
	var flags []*flag.Flag
	fs.VisitAll(func(f *flag.Flag) { flags = append(flags, f) })
	// A flag's value is a pointer to its field.
	field := func(f *flag.Flag) uintptr { return reflect.ValueOf(f.Value).Pointer() }
	slices.SortFunc(flags, func(a, b *flag.Flag) int {
		if field(a) < field(b) {
			return -1
		}
		return 1
	})
	var list []setting
	for _, f := range flags {
		list = append(list, setting{f.Name, app.EnvName(f.Name), f.DefValue, f.Usage})
	}
	return append(list,
		setting{"healthcheck", app.EnvName("healthcheck"), "false", "ask the running server's /readyz and exit with 0 or 1"},
		setting{"new-api-key", "", "", "print a new API key of that name and its line for -api-keys-file, and exit"},
		setting{"version", "", "false", "print the version and exit"})
}

func TestREADMEListsAllSettings(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, s := range settings() {
		code := func(text string) string {
			if text == "" {
				return ""
			}
			return "`" + text + "`"
		}
		want = append(want, fmt.Sprintf("| `-%s` | %s | %s | %s |", s.name, code(s.env), code(s.value), s.usage))
	}
	row := regexp.MustCompile("(?m)^\\| `-.*$")
	got := row.FindAllString(string(text), -1)
	if !slices.Equal(got, want) {
		t.Errorf("the table of settings in README.md should be\n%s", strings.Join(want, "\n"))
	}
}
