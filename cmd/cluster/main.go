// Command cluster runs what production looks like on one machine, without
// Docker: several replicas of the server over one Redis, and HAProxy in front of
// them, all on the loopback interface.
//
//	go run ./cmd/cluster                          three replicas on http://localhost:8080
//	go run ./cmd/cluster -replicas 5 -port 9000
//	go run ./cmd/cluster -- -member-ttl 10s -heartbeat-interval 3s   for every replica
//
// It needs Go. Without redis-server it uses a Redis in memory, and without haproxy there
// is no balancer. It reports a process that dies, and starts it again: kill one to see
// what happens to its visitors. All processes end with this one.
//
// Exit codes: 0 after a stop by a signal, 1 when something did not start, 2 for a
// bad setting.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(code)
}

// settings are what can be set.
type settings struct {
	count   int // of replicas
	port    int
	restart time.Duration
	server  string
	args    []string // of each replica
}

var errSettings = errors.New("bad setting")

// parse reads the flags. Usage and mistakes go to out.
func parse(args []string, out io.Writer) (settings, error) {
	var s settings
	fs := flag.NewFlagSet("cluster", flag.ContinueOnError)
	fs.SetOutput(out)
	fs.Usage = func() {
		_, _ = fmt.Fprint(out, "Several replicas over one Redis behind HAProxy, on this machine.\n\n",
			"  cluster [flags] [-- flags of every replica]\n\n")
		fs.PrintDefaults()
	}
	fs.IntVar(&s.count, "replicas", 3, "how many")
	fs.IntVar(&s.port, "port", 8080, "where to open the page; the others get the next free ones; 0: any")
	fs.DurationVar(&s.restart, "restart", 10*time.Second, "how long what died stays away; 0: for ever")
	fs.StringVar(&s.server, "server", "", "program of the server; empty: it is built")
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	s.args = fs.Args()
	switch {
	case s.count < 1 || s.count > 20:
		return s, fmt.Errorf("%w: -replicas %d: it must be 1 to 20", errSettings, s.count)
	case s.port < 0 || s.port > 65_000:
		return s, fmt.Errorf("%w: -port %d: it must be 0 to 65000", errSettings, s.port)
	case s.restart < 0:
		return s, fmt.Errorf("%w: -restart %v: it must not be negative", errSettings, s.restart)
	}
	return s, nil
}

// run is the whole program, for a test to call.
func run(ctx context.Context, args []string, out io.Writer) (code int) {
	s, err := parse(args, out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errSettings):
		_, _ = fmt.Fprintln(out, err)
		return 2
	case err != nil: // said by the flags
		return 2
	}
	c, err := newCluster(s, out)
	if err == nil {
		err = c.run(ctx)
	}
	if err != nil {
		_, _ = fmt.Fprintln(out, "cluster:", err)
		return 1
	}
	return 0
}
