package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// up is a line of the metrics that says that Redis answers.
var up = regexp.MustCompile(`presence_redis_up\{node="[^"]+"\} 1`)

// built is the server that all tests run.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// screen is where a cluster prints to.
type screen struct {
	mu   sync.Mutex // guards:
	text strings.Builder
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// shows waits until something is on the screen, and returns what its groups
// matched.
func (s *screen) shows(t *testing.T, limit time.Duration, pattern string) []string {
	t.Helper()
	want := regexp.MustCompile(pattern)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; <-tick.C {
		if got := want.FindStringSubmatch(s.String()); got != nil {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s in\n%s", limit, pattern, s)
		}
	}
}

// start runs a cluster with a server that was built for the test. stop ends it
// and returns its exit code.
func start(t *testing.T, server string, args ...string) (s *screen, stop func() int) {
	t.Helper()
	s = &screen{}
	ctx, cancel := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, append([]string{"-server", server, "-port", "0"}, args...), s)
	}()
	stop = sync.OnceValue(func() int {
		cancel()
		return <-code
	})
	t.Cleanup(func() { stop() })
	return s, stop
}

// build returns the path of the server, which is built once.
func build(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts processes and takes seconds")
	}
	built.once.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "presence-cluster-test-"); built.err != nil { //nolint:usetesting // outlives the first test
			return
		}
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(built.dir, "server"), "presence/cmd/server")
		if said, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("build the server: %w\n%s", err, said)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "server")
}

// page loads a page.
func page(t *testing.T, url string) string {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return string(text)
}

// pidsOf are the processes that a screen tells of.
func pidsOf(t *testing.T, s *screen) []int {
	t.Helper()
	var pids []int
	for _, m := range regexp.MustCompile(`(?:pid|kill -9) (\d+)`).FindAllStringSubmatch(s.String(), -1) {
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

func TestReplicaThatDiesIsReportedAndComesBack(t *testing.T) {
	s, stop := start(t, build(t), "-replicas", "2", "-restart", "500ms", "--", "-log-level", "debug")
	s.shows(t, time.Minute, "stop +Ctrl-C")
	url := s.shows(t, 0, `open +(http\S+)`)[1]
	if text := page(t, url); !strings.Contains(text, "online") {
		t.Errorf("%s shows\n%s", url, text)
	}
	for _, name := range []string{"replica-1", "replica-2"} {
		replica := s.shows(t, 0, name+` +(http\S+)`)[1]
		if text := page(t, replica); !strings.Contains(text, "Served by <code>"+name+"</code>") {
			t.Errorf("%s does not say that it is %s:\n%s", replica, name, text)
		}
		if text := page(t, s.shows(t, 0, name+` .*(http\S+/metrics)`)[1]); !up.MatchString(text) {
			t.Errorf("the metrics of %s are not where the screen says", name)
		}
	}
	key := s.shows(t, 0, `API key +(psk_\w+)`)[1]
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+"/v1/rooms/lobby/connections/c1", strings.NewReader(`{"user":"42"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("with the API key on the screen a user joins with %s", resp.Status)
	}
	pid := s.shows(t, 0, `replica-2 .*kill -9 (\d+)`)[1]
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.shows(t, 5*time.Second, `replica-2 \(pid `+pid+`\) died: signal: killed; .*; it starts again in 500ms`)
	s.shows(t, 30*time.Second, `replica-2 is back: kill -9 \d+`)
	page(t, s.shows(t, 0, `replica-2 +(http\S+)`)[1])

	folder := s.shows(t, 0, `logs +(\S+)`)[1]
	pids := pidsOf(t, s)
	if code := stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d is still there", pid)
		}
	}
	if files, _ := filepath.Glob(folder + "*"); len(files) > 0 {
		t.Errorf("left behind: %v", files)
	}
}

func TestWithoutRedisAndHAProxy(t *testing.T) {
	server := build(t)
	t.Setenv("PATH", t.TempDir())
	s, stop := start(t, server, "-replicas", "2")
	s.shows(t, time.Minute, "stop +Ctrl-C")
	s.shows(t, 0, "redis-server is not installed")
	s.shows(t, 0, "HAProxy +is not installed .*apt-get install haproxy")
	page(t, s.shows(t, 0, `open +(http\S+)`)[1])
	if text := page(t, s.shows(t, 0, `replica-2 +(http\S+)`)[1]+"/v1/rooms/lobby"); !strings.Contains(text, `"users":0`) {
		t.Errorf("replica-2 says %s", text)
	}
	if code := stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestServerThatDoesNotStartIsTold(t *testing.T) {
	s, _ := start(t, build(t), "-replicas", "2", "--", "-member-ttl", "1s")
	s.shows(t, time.Minute, "replica-1: it ended .*exit status 2")
	s.shows(t, 0, "at least twice the heartbeat interval")
}

func TestStopWhileStarting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := &screen{}
	if code := run(ctx, []string{"-port", "0"}, s); code != 0 {
		t.Errorf("exit code %d: %s", code, s)
	}
}

func TestSettings(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"-help", 0, "-replicas"},
		{"-replicas 0", 2, "-replicas 0"},
		{"-port -1", 2, "-port -1"},
		{"-restart -1s", 2, "-restart -1s"},
		{"-restart soon", 2, "soon"},
	} {
		t.Run(c.args, func(t *testing.T) {
			s := &screen{}
			if code := run(t.Context(), strings.Fields(c.args), s); code != c.code || !strings.Contains(s.String(), c.says) {
				t.Errorf("code %d, says %s", code, s)
			}
		})
	}
}
