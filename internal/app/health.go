package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// healthRoutes adds the routes for orchestrators. reason turns an error into the text for
// clients of this listener. With nodes, the text also lists the nodes of Redis that do not
// answer.
func (a *App) healthRoutes(mux interface {
	HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request))
}, reason func(error) string, nodes bool,
) {
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if a.draining.Load() {
			answer(w, http.StatusServiceUnavailable, "draining")
			return
		}
		if err := a.ready(); err != nil {
			answer(w, http.StatusServiceUnavailable, reason(err))
			return
		}
		var text strings.Builder
		text.WriteString("ok")
		if nodes {
			for _, err := range a.replica.Away() {
				text.WriteString("\n" + reason(err))
			}
		}
		answer(w, http.StatusOK, text.String())
	})
}

// errNoSecret is why a replica that does not know the shared secret is not ready.
var errNoSecret = errors.New("the session secret is not known yet")

// ready returns nil when this replica reaches Redis and can recognise browsers.
func (a *App) ready() error {
	if err := a.replica.Ready(); err != nil {
		return err
	}
	if !a.secret.isKnown() {
		return errNoSecret
	}
	return nil
}

// publicReason says only which part is at fault: the error may contain hosts, users and
// words of Redis.
func publicReason(error) string { return "redis" }

// adminReason tells an operator everything.
func adminReason(err error) string { return "redis: " + err.Error() }

// lbz tells a balancer whether to send new visitors here. While draining the answer
// is 404, which HAProxy takes for "no new visitors" (http-check disable-on-404). After a
// 503 it would cut the sockets that this replica is about to close properly.
func (a *App) lbz(w http.ResponseWriter, _ *http.Request) {
	if a.draining.Load() {
		answer(w, http.StatusNotFound, "draining")
		return
	}
	answer(w, http.StatusOK, "ok")
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // an error is the caller's leaving
}

// healthTimeout bounds what a health check waits for.
const healthTimeout = 2 * time.Second

// CheckHealth asks the /readyz of the server that runs on this machine with
// config, and returns nil when it is ready.
func CheckHealth(ctx context.Context, config Config) error {
	addr := config.AdminListen
	if addr == "" {
		addr = config.Listen
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/readyz", nil)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
		return fmt.Errorf("not ready: %s", strings.TrimSpace(string(reason)))
	}
	return nil
}

// serverLog turns the complaints of the HTTP server, above all about broken
// connections of browsers, into debug lines.
func (a *App) serverLog() *log.Logger {
	return slog.NewLogLogger(a.log.Handler(), slog.LevelDebug)
}
