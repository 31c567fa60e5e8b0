package redistest

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"presence/internal/process"
)

// Server is a process that speaks Redis' protocol: a redis-server, or a sentinel.
type Server struct {
	// Addr is where it listens, on the loopback interface.
	Addr string

	t      testing.TB
	run    *process.Process // nil: killed
	args   []string
	env    []string     // nil: as that of the test
	secure *Certificate // nil: no TLS
	open   bool         // without users: anybody may do everything, as with a sentinel
}

// Start starts a redis-server that keeps nothing on disk and ends with the test. If
// the program is missing the test is skipped, or in CI fails. args are appended to
// the command line.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return StartAt(t, FreePort(t), nil, args...)
}

// StartTLS starts a redis-server that is reached over TLS only.
func StartTLS(t testing.TB, args ...string) *Server {
	t.Helper()
	return StartAt(t, FreePort(t), NewCertificate(t), args...)
}

// StartAt starts a redis-server at a port, for servers that talk to each other. It
// uses TLS if secure is not nil.
func StartAt(t testing.TB, port int, secure *Certificate, args ...string) *Server {
	t.Helper()
	return startAt(t, port, secure, nil, args...)
}

func startAt(t testing.TB, port int, secure *Certificate, env []string, args ...string) *Server {
	t.Helper()
	s := &Server{t: t, Addr: "127.0.0.1:" + strconv.Itoa(port), secure: secure, env: env}
	s.args = append([]string{
		Tool(t, "redis-server"), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
		"--dir", t.TempDir(), "--logfile", "log", "--enable-debug-command", "local",
		"--aclfile", usersFile(t), "--masteruser", admin, "--masterauth", password,
		// Otherwise a master that is killed before its first sync has no successor.
		"--repl-diskless-sync-delay", "0",
	}, args...)
	if secure == nil {
		s.args = append(s.args, "--port", strconv.Itoa(port))
	} else {
		s.args = append(s.args, "--port", "0", "--tls-port", strconv.Itoa(port))
		for _, setting := range secure.settings() {
			key, value, _ := strings.Cut(setting, " ")
			s.args = append(s.args, "--"+key, value)
		}
	}
	s.Restart()
	t.Cleanup(s.Kill)
	t.Cleanup(s.refusedNothing)
	return s
}

// StartSentinelAt starts a sentinel at a port. It writes to its configuration file.
func StartSentinelAt(t testing.TB, port int, secure *Certificate, config string) *Server {
	t.Helper()
	s := &Server{
		t: t, Addr: "127.0.0.1:" + strconv.Itoa(port), secure: secure, open: true,
		args: []string{Tool(t, "redis-sentinel"), config},
	}
	s.Restart()
	t.Cleanup(s.Kill)
	return s
}

// Restart starts the server again, empty, after Kill.
func (s *Server) Restart() {
	s.t.Helper()
	cmd := exec.Command(s.args[0], s.args[1:]...) //nolint:gosec,noctx // the test's own command; Kill ends it
	cmd.Env = s.env
	var err error
	if s.run, err = process.Start(cmd); err != nil {
		s.t.Fatalf("start %s: %v", s.args[0], err)
	}
	Eventually(s.t, 10*time.Second, s.Addr+" answers", func() bool { return Listens(s.Addr) && s.Do("ping") == "PONG" }) // else the client complains on stderr
}

// Kill ends the process at once, as kill -9 does.
func (s *Server) Kill() {
	if s.run != nil {
		s.run.Kill()
		s.run = nil
	}
}

// Pause stops the process as a frozen machine is stopped, until Continue.
func (s *Server) Pause() {
	if s.run != nil {
		s.run.Pause()
	}
}

// Continue ends Pause.
func (s *Server) Continue() {
	if s.run != nil {
		s.run.Continue()
	}
}

// URL is the address of the server, with the user of the code under test, as -redis-url
// takes it.
func (s *Server) URL() string { return URL("", s) + "/0" + s.secure.Query() }

// URLBy is URL with another address, such as that of a proxy.
func (s *Server) URLBy(addr string) string {
	return (&Server{Addr: addr, secure: s.secure}).URL()
}

// URL is the beginning of a URL for several servers of one kind, "sentinel",
// "cluster" or "", up to their addresses.
func URL(kind string, servers ...*Server) string {
	scheme := "redis"
	if servers[0].secure != nil {
		scheme = "rediss"
	}
	if kind != "" {
		scheme += "-" + kind
	}
	addrs := make([]string, len(servers))
	for i, s := range servers {
		addrs[i] = s.Addr
	}
	return scheme + "://" + shippedUser + ":" + password + "@" + strings.Join(addrs, ",")
}

// UserClient returns a client that may do what the code under test may. It ends
// with the test.
func (s *Server) UserClient(t testing.TB) redis.UniversalClient { return s.client(t, shippedUser) }

// Client returns a client of the test itself, which may do everything. It ends
// with the test.
func (s *Server) Client(t testing.TB) redis.UniversalClient { return s.client(t, admin) }

func (s *Server) client(t testing.TB, user string) redis.UniversalClient {
	c := redis.NewClient(s.options(user))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (s *Server) options(user string) *redis.Options {
	o := &redis.Options{
		Addr: s.Addr, Username: user, Password: password, TLSConfig: s.secure.config(),
		ContextTimeoutEnabled: true, DisableIdentity: true,
	}
	if s.open {
		o.Username, o.Password = "", ""
	}
	return o
}

// Do runs one command as the test itself, and returns its reply as text, "" for
// an error.
func (s *Server) Do(args ...any) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	o := s.options(admin)
	o.MaxRetries, o.DialerRetries = -1, 1
	c := redis.NewClient(o)
	defer func() { _ = c.Close() }()
	reply, err := c.Do(ctx, args...).Result()
	if err != nil {
		return ""
	}
	return fmt.Sprint(reply)
}

// Auth is the user and the password that may do everything, for servers that log in to
// each other.
func Auth() (user, pass string) { return admin, password }
