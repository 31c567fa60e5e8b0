// Command server is one replica of the presence server. It turns flags and
// environment into settings, signals into a context, and errors into exit codes:
// 0 after a graceful stop, 1 when something failed, 2 for a bad setting.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"presence/internal/app"
)

// gcPercent is how much the heap grows between two garbage collections, in percent, unless
// the operator sets GOGC. A page makes much garbage while it opens and little afterwards.
// With Go's default of 100, the few objects that stay keep far more memory from being freed.
const gcPercent = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// These flags have no environment variable.
const (
	// versionFlag has none since images set PRESENCE_VERSION to say what they hold.
	versionFlag = "version"

	// newKeyFlag makes an API key, and starts no server. It has none since nobody would
	// look for a variable that keeps a server from starting.
	newKeyFlag = "new-api-key"
)

// run is the whole program, for a test to call.
func run(ctx context.Context, args []string, lookupEnv func(string) (string, bool), stdout, stderr io.Writer) (code int) {
	config := app.Default()
	fs := flag.NewFlagSet("server", flag.ContinueOnError)
	fs.SetOutput(stderr)
	config.Flags(fs)
	healthcheck := fs.Bool("healthcheck", false, "ask the running server's /readyz and exit with 0 or 1")
	newKey := fs.String(newKeyFlag, "", "print a new API key of that name and its line for -api-keys-file, and exit")
	version := fs.Bool(versionFlag, false, "print the version and exit")
	if err := parse(fs, args, lookupEnv); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		_, _ = fmt.Fprintln(stderr, err)
		return 2
	}
	if *version {
		_, _ = fmt.Fprintln(stdout, app.BuildInfo())
		return 0
	}
	if isSet(fs, newKeyFlag) {
		return printKey(*newKey, stdout, stderr)
	}
	if *healthcheck {
		if err := app.CheckHealth(ctx, config); err != nil {
			_, _ = fmt.Fprintln(stderr, err)
			return 1
		}
		return 0
	}
	if err := config.Validate(); err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return 2
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // early: until then a SIGHUP ends the process
	defer signal.Stop(hangups)
	terminal := isTerminal(stderr)
	log := config.Logger(stderr, terminal)
	config.RouteLibraryLogs(stderr, terminal)
	server, err := app.New(config, log)
	if errors.Is(err, app.ErrConfig) {
		_, _ = fmt.Fprintln(stderr, err)
		return 2
	}
	if err == nil {
		if key := server.RunKey(); key != "" { // before anything is answered
			_, _ = fmt.Fprintln(stderr, "API key for this run:", key)
		}
		err = serve(ctx, server, hangups)
	}
	if err != nil {
		log.ErrorContext(ctx, "failed", "err", err)
		return 1
	}
	return 0
}

// serve runs server until ctx ends. At each hangup it reads its keys again.
func serve(ctx context.Context, server *app.App, hangups <-chan os.Signal) error {
	var reloads sync.WaitGroup
	done := make(chan struct{})
	reloads.Go(func() {
		for {
			select {
			case <-hangups:
				server.Reload(ctx)
			case <-done:
				return
			}
		}
	})
	defer reloads.Wait()
	defer close(done)
	return server.Run(ctx) //nolint:wrapcheck // says what failed
}

// isSet reports whether the flag of that name was given.
func isSet(fs *flag.FlagSet, name string) (set bool) {
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// printKey prints a new API key and its line of the keys file, for programs to read, and
// says on stderr what they are. They are written nowhere else.
func printKey(name string, stdout, stderr io.Writer) (code int) {
	key, line, err := app.NewKey(name)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return 2
	}
	_, err = fmt.Fprintf(stdout, "%s\n%s\n", key, line)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return 1
	}
	_, _ = fmt.Fprint(stderr, `
The first line is the key. Give it to the program that calls, which sends it as
"Authorization: Bearer psk_…". The server does not keep it.
The second is for the file of -api-keys-file: the key's name, its SHA-256, the rooms it is
for (rooms=lobby,team-*: names, or prefixes followed by *) and its rights (read to observe,
write to join and to remove). Servers read the file again on SIGHUP.
`)
	return 0
}

// parse reads the flags, and the environment for those that are not given.
func parse(fs *flag.FlagSet, args []string, lookupEnv func(string) (string, bool)) error {
	fs.Usage = func() {
		_, _ = fmt.Fprintf(fs.Output(), "Presence server: who is online?\n\nEvery flag but -%s and -%s is also an environment variable: -redis-url is %s.\n\n", newKeyFlag, versionFlag, app.EnvName("redis-url"))
		fs.PrintDefaults()
	}
	var problem error
	fs.VisitAll(func(f *flag.Flag) {
		name := app.EnvName(f.Name)
		value, set := lookupEnv(name)
		if value == "" && !app.EmptyCounts(f.Name) || f.Name == versionFlag || f.Name == newKeyFlag {
			set = false
		}
		if set && problem == nil {
			if err := fs.Set(f.Name, value); err != nil {
				problem = fmt.Errorf("%w: %s %q: %w%s", app.ErrConfig, name, value, err, legal(f))
			}
		}
	})
	if problem != nil {
		return problem
	}
	output := fs.Output()
	fs.SetOutput(io.Discard) // one line, not the whole usage
	err := fs.Parse(args)
	fs.SetOutput(output)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fs.Usage()
		return err
	case err != nil:
		hint := " (-help lists all)"
		fs.VisitAll(func(f *flag.Flag) {
			if strings.Contains(err.Error(), " -"+f.Name+": ") {
				hint = legal(f)
			}
		})
		return fmt.Errorf("%w: %w%s", app.ErrConfig, err, hint)
	case fs.NArg() > 0:
		return fmt.Errorf("%w: unexpected argument %q (-help lists all flags)", app.ErrConfig, fs.Arg(0))
	}
	return nil
}

// legal says which values f takes, where its type does not take every text.
func legal(f *flag.Flag) string {
	getter, ok := f.Value.(flag.Getter)
	if !ok {
		return ""
	}
	switch getter.Get().(type) {
	case time.Duration:
		return "; it must be a duration, such as 500ms, 10s or 1m30s"
	case int:
		return "; it must be a whole number"
	case bool:
		return "; it must be true or false"
	default:
		return ""
	}
}

// isTerminal reports whether w is one.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
