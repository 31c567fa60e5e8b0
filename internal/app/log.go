package app

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"presence/internal/socket"
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
// errors pass, and of those not the sockets that were refused on purpose. What
// the Redis client says of its connections is for debugging.
func (c *Config) RouteLibraryLogs(w io.Writer, terminal bool) {
	quiet := *c
	quiet.LogLevel = "error"
	slog.SetDefault(slog.New(expected{quiet.Logger(w, terminal).Handler()}).With("source", "library"))
	store.LogTo(c.Logger(w, terminal))
}

// expected is a handler that drops errors that are none to us.
type expected struct{ slog.Handler }

// Handle passes r on unless it is about a socket that was refused on purpose.
func (h expected) Handle(ctx context.Context, r slog.Record) error {
	refused := false
	r.Attrs(func(a slog.Attr) bool {
		err, ok := a.Value.Any().(error)
		refused = ok && (errors.Is(err, socket.ErrCapacity) || errors.Is(err, socket.ErrDraining) || errors.Is(err, socket.ErrHandshake))
		return !refused
	})
	if refused {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps the filter.
func (h expected) WithAttrs(attrs []slog.Attr) slog.Handler {
	return expected{h.Handler.WithAttrs(attrs)}
}

// WithGroup keeps the filter.
func (h expected) WithGroup(name string) slog.Handler { return expected{h.Handler.WithGroup(name)} }
