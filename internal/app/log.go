package app

import (
	"io"
	"log/slog"

	"presence/internal/store"
)

// Logger returns the logger that c asks for, writing to w. terminal says that w
// is one. c must be valid.
func (c *Config) Logger(w io.Writer, terminal bool) *slog.Logger {
	level, _ := c.level() // valid
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" || c.LogFormat == "" && !terminal {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// RouteLibraryLogs sends what libraries log by themselves to w, for the whole
// process: main calls it, tests do not. livetemplate reports every connection
// and every dropped push to the default logger, which we count ourselves: only
// errors pass. What the Redis client says of its connections is for debugging.
func (c *Config) RouteLibraryLogs(w io.Writer, terminal bool) {
	quiet := *c
	quiet.LogLevel = "error"
	slog.SetDefault(quiet.Logger(w, terminal).With("source", "library"))
	store.LogTo(c.Logger(w, terminal))
}
