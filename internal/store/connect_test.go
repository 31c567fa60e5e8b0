package store

import (
	"errors"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"presence/internal/presence"
	"presence/internal/redistest"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestParseURL(t *testing.T) {
	pem := t.TempDir() + "/ca.pem"
	if err := os.WriteFile(pem, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]string{
		"redis://localhost":                        "Redis at localhost:6379",
		"redis://u:p%40ss@10.0.0.1:7000/3":         "Redis at 10.0.0.1:7000",
		"rediss://[::1]:6380":                      "Redis at [::1]:6380",
		"redis-sentinel://a,b:1,c/main":            "Redis main by Sentinel at a:26379, b:1, c:26379",
		"rediss-sentinel://:pw@a,b/main/2":         "Redis main by Sentinel at a:26379, b:26379",
		"redis-cluster://a:7001,b:7002":            "Redis Cluster at a:7001, b:7002",
		"redis-sentinel://a/m?sentinel-password=x": "Redis m by Sentinel at a:26379",
		"localhost:6379":                           "must begin with",
		"http://localhost":                         "unknown scheme",
		"redis-ring://a":                           "unknown scheme",
		"redis://":                                 "no host",
		"redis://a,b":                              "several hosts",
		"redis://a:port":                           "no host",
		"redis://a/x":                              "no database number",
		"redis://a/-1":                             "no database number",
		"redis-cluster://a/1":                      "no database numbers",
		"redis-sentinel://a,b":                     "name of the master",
		"redis://a?timeout=1":                      "unknown parameter",
		"redis://a?ca=x":                           "rediss:// only",
		"rediss://a?ca=/does/not/exist":            "no such file",
		"rediss://a?ca=" + strings.ReplaceAll(pem, "/", "%2F"): "no PEM certificate",
	} {
		e, err := ParseURL(raw)
		switch {
		case err == nil && e.String() != want:
			t.Errorf("ParseURL(%q) = %s, want %s", raw, e, want)
		case err != nil && (!errors.Is(err, ErrURL) || !strings.Contains(err.Error(), want)):
			t.Errorf("ParseURL(%q): %v, want %s", raw, err, want)
		}
	}
	e, err := ParseURL("redis://u:secret@a")
	if err != nil || e.user != "u" || e.password != "secret" {
		t.Fatalf("%+v, %v", e, err)
	}
	if e.SetPassword("other"); e.user != "u" || e.password != "other" {
		t.Errorf("a password alone: %q, %q", e.user, e.password)
	}
	if e.SetPassword("x:y:z"); e.user != "x" || e.password != "y:z" {
		t.Errorf("user and password: %q, %q", e.user, e.password)
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("redis://u:geheim@h:1/2?ca=x")
	f.Add("redis-sentinel://:geheim@h:1,[::1]:2/m")
	f.Fuzz(func(t *testing.T, raw string) {
		e, err := ParseURL(raw)
		if err == nil && len(e.addrs) == 0 {
			t.Errorf("ParseURL(%q) has no address", raw)
		}
		if err != nil && strings.Contains(raw, "geheim@") && strings.Contains(err.Error(), "geheim") {
			t.Errorf("the error repeats the password: %v", err)
		}
	})
}

func FuzzParseMessage(f *testing.F) {
	f.Add(`{"version":1764000000000000,"users":2,"connections":3,"names":1}`)
	f.Add(`{"version":1,"users":-2}`)
	f.Add(`[]`)
	f.Fuzz(func(t *testing.T, payload string) {
		e, err := parseMessage(payload)
		if err == nil && (e.Occupancy.Version <= 0 || e.Occupancy.Users < 0 || e.Occupancy.Connections < 0) {
			t.Errorf("parseMessage(%q) = %+v", payload, e)
		}
	})
}

// Opens the URL of a server that speaks only TLS, with and without its certificate.
func TestOpenOverTLS(t *testing.T) {
	server := redistest.StartTLS(t)
	open := func(url string) *Store {
		e, err := ParseURL(url)
		if err != nil {
			t.Fatal(err)
		}
		rdb := e.Open("test")
		t.Cleanup(func() { _ = rdb.Close() })
		return New(rdb, Options{})
	}
	if _, errs := open(server.URL()).Restore(t.Context(), "r", []Lost{{Connection: conn("c", "g001", "Ann")}}); errs[0] != nil {
		t.Errorf("restore: %v", errs[0])
	}
	trusted, _, _ := strings.Cut(server.URL(), "?")
	for name, c := range map[string]struct{ url, says string }{
		"a certificate nobody vouches for": {trusted, "certificate"},
		"no TLS":                           {strings.Replace(trusted, "rediss:", "redis:", 1), "takes rediss:// in the URL"},
		"TLS to a plain port":              {strings.Replace(redistest.Start(t).URL(), "redis:", "rediss:", 1), "redis:// to one that does not"},
		"TLS to another server":            {"rediss://" + chatty(t), "redis:// to one that does not"},
	} {
		s := open(c.url)
		_, _ = s.Probe(t.Context(), theOnly, "e", "") // the client's first call may run out of time before it knows why
		_, err := s.Probe(t.Context(), theOnly, "e", "")
		if !errors.Is(err, presence.ErrUnavailable) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %v with %q", name, err, presence.ErrUnavailable, c.says)
		}
	}
}

// However many calls have failed in an outage, the first call after it succeeds.
func TestOutageEndsWithTheFirstAnswer(t *testing.T) {
	server := redistest.Start(t)
	e, err := ParseURL(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	rdb := e.Open("test")
	defer func() { _ = rdb.Close() }()
	s := New(rdb, Options{})
	server.Kill()
	var calls sync.WaitGroup
	for range 30 * runtime.GOMAXPROCS(0) { // more than the pool has places
		calls.Go(func() {
			if _, err := s.Epochs(t.Context(), ""); !errors.Is(err, presence.ErrUnavailable) {
				t.Errorf("without Redis: %v, want %v", err, presence.ErrUnavailable)
			}
		})
	}
	calls.Wait()
	server.Restart()
	if _, err := s.Epochs(t.Context(), ""); err != nil {
		t.Errorf("Redis is back: %v", err)
	}
}

// chatty returns the address of a server that answers everything at once, as a plain
// Redis does when it finds the end of a line.
func chatty(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("-ERR unknown command\r\n"))
			_, _ = conn.Read(make([]byte, 1)) // until the client has closed or sent something
			_ = conn.Close()
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}
