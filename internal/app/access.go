package app

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"presence/internal/access"
	"presence/internal/forwarded"
	"presence/internal/httpapi"
)

// openAccess reads the keys and secrets of the API's callers.
func (a *App) openAccess() (err error) {
	o := access.Options{
		Embedded:   a.config.RedisURL == "",
		Configured: a.config.APIKeysFile != "" || a.config.TokenSecretFile != "" || a.config.TokenJWKS != "",
		Audience:   a.config.TokenAudience,
		Registerer: a.registry,

		PublicRooms: a.config.publicRooms(),
	}
	if file := a.config.APIKeysFile; file != "" {
		if o.Keys, err = a.readKeys(context.Background(), file); err != nil {
			return err
		}
	}
	if file := a.config.TokenSecretFile; file != "" {
		if o.TokenSecret, err = readTokenSecret(file); err != nil {
			return err
		}
	}
	if source := a.config.TokenJWKS; source != "" {
		if a.tokenKeys, err = access.OpenKeySet(context.Background(), source, a.log); err != nil {
			return badJWKS(source, err)
		}
		o.TokenKeys = a.tokenKeys
	}
	a.access, err = access.New(o)
	return err
}

// Reload reads the files of keys and secrets of the API again. If a file can't be used, its
// old content stays in force. Reload logs which line of which file is wrong, without the
// content. It may be called at any time after New, from any goroutine.
func (a *App) Reload(ctx context.Context) {
	if file := a.config.APIKeysFile; file != "" {
		keys, err := a.readKeys(ctx, file)
		if err == nil {
			a.access.SetKeys(keys)
		}
		a.reloaded(ctx, "api-keys-file", err, "keys", len(keys))
	}
	if file := a.config.TokenSecretFile; file != "" {
		secret, err := readTokenSecret(file)
		if err == nil {
			a.access.SetTokenSecret(secret)
		}
		a.reloaded(ctx, "token-secret-file", err)
	}
	if a.tokenKeys != nil {
		err := a.tokenKeys.Refresh(ctx)
		if err != nil {
			err = badJWKS(a.config.TokenJWKS, err)
		}
		a.reloaded(ctx, "token-jwks", err)
	}
}

// badJWKS describes a set of keys that can't be used, without an address, which may hold a
// password.
func badJWKS(source string, err error) error {
	if access.IsAddress(source) {
		source = scheme(source) + "://…"
	}
	return bad("token-jwks", source, err.Error())
}

// reloaded logs whether the file of a setting could be read again.
func (a *App) reloaded(ctx context.Context, setting string, err error, more ...any) {
	args := append([]any{"setting", "-" + setting}, more...)
	if err != nil {
		a.log.ErrorContext(ctx, "not read again: what was read before stays in force", "setting", "-"+setting, "err", err)
		return
	}
	a.log.InfoContext(ctx, "read again", args...)
}

// readKeys returns the API keys of a file. If there are none it warns: every call with a key
// will be refused.
func (a *App) readKeys(ctx context.Context, file string) ([]access.Key, error) {
	const name = "api-keys-file"
	text, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, bad(name, file, err.Error())
	}
	keys, err := access.ParseKeys(string(text))
	if err != nil {
		return nil, bad(name, file, err.Error())
	}
	if len(keys) == 0 {
		a.log.WarnContext(ctx, "no key in this file: nobody can call the API with a key (server -new-api-key NAME prints a line for it)", "setting", "-"+name, "file", file)
	}
	return keys, nil
}

// readTokenSecret returns the bytes of a file without a newline at its end. All other bytes
// count, since the programs that sign tokens read the same ones.
func readTokenSecret(file string) ([]byte, error) {
	const name = "token-secret-file"
	text, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, bad(name, file, err.Error())
	}
	if line, ok := bytes.CutSuffix(text, []byte("\n")); ok {
		text = bytes.TrimSuffix(line, []byte("\r"))
	}
	if len(text) < minSecret {
		return nil, bad(name, file, fmt.Sprintf("the file must hold at least %d bytes", minSecret))
	}
	return text, nil
}

// NewKey returns a fresh API key that is called name, and its line for -api-keys-file. The
// error wraps [ErrConfig].
func NewKey(name string) (key, line string, err error) {
	if key, line, err = access.NewKey(name); err != nil {
		return "", "", fmt.Errorf("%w: -new-api-key: %w", ErrConfig, err)
	}
	return key, line, nil
}

// RunKey is the API key that was made for this run, or "" if others are configured. It
// is for the operator, and is never logged.
func (a *App) RunKey() string { return a.access.RunKey() }

// calls limits the calls of the API.
type calls struct {
	addresses *limiter
	tokens    *limiter
	keys      *limiter // nil: they are not limited
}

func newCalls(keyRate int) calls {
	c := calls{addresses: newLimiter(postRate), tokens: newLimiter(postRate)}
	if keyRate > 0 {
		c.keys = newLimiter(keyRate)
	}
	return c
}

// allow reports whether the sender, who is at address, may call once more now. Senders with
// a key do not count for the limit of their address.
func (c calls) allow(sender access.Sender, address string) bool {
	if sender.Key {
		return c.keys == nil || c.keys.allow(sender.ID)
	}
	return c.addresses.allow(address) && (sender.ID == "" || c.tokens.allow(sender.ID))
}

// run forgets senders until ctx ends.
func (c calls) run(ctx context.Context) error {
	var all errgroup.Group
	for _, l := range []*limiter{c.addresses, c.tokens, c.keys} {
		if l != nil {
			all.Go(func() error { return l.run(ctx) })
		}
	}
	return all.Wait() //nolint:wrapcheck // there is none
}

// limited lets calls of the API through as long as their sender is below its limit.
func (a *App) limited(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.calls.allow(a.access.Sender(r), forwarded.ClientKey(r)) {
			httpapi.Problem(w, httpapi.RateLimited, "Please wait a second, and call less often.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

const (
	// These are the headers that pages of other origins may send and read, besides those
	// that the Fetch standard allows.
	apiHeaders     = "Authorization, Content-Type, Last-Event-ID, If-None-Match"
	apiExposes     = "ETag, Retry-After"
	preflightCache = "7200" // seconds, the most that browsers keep
)

// crossOrigin lets pages of -api-origins call the API (CORS, of the Fetch standard).
// Their browsers send no cookies, and the API ignores cookies.
func (a *App) crossOrigin(mux *http.ServeMux, next http.Handler) http.Handler {
	allowed := map[string]bool{}
	for _, origin := range a.config.apiOrigins() {
		allowed[forwarded.Origin(origin)] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isAPI(r) {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Add("Vary", "Authorization, Origin")
		origin := ""
		if sent := r.Header.Values("Origin"); len(sent) == 1 {
			origin = sent[0]
		}
		switch {
		case origin == "":
		case allowed[anyOrigin]:
			h.Set("Access-Control-Allow-Origin", anyOrigin)
		case allowed[forwarded.Origin(origin)]:
			h.Set("Access-Control-Allow-Origin", origin)
		default:
			origin = ""
		}
		preflight := r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
		methods := ""
		if preflight {
			methods = strings.Join(methodsOf(mux, r), ", ")
		}
		switch {
		case origin == "":
		case methods != "":
			h.Set("Access-Control-Allow-Methods", methods)
			h.Set("Access-Control-Allow-Headers", apiHeaders)
			h.Set("Access-Control-Max-Age", preflightCache)
		default:
			h.Set("Access-Control-Expose-Headers", apiExposes)
		}
		if methods != "" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// methodsOf returns the methods that the address of r takes; none if there is no such
// address.
func methodsOf(mux *http.ServeMux, r *http.Request) []string {
	var methods []string
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		probe := r.WithContext(r.Context())
		probe.Method = method
		if _, pattern := mux.Handler(probe); pattern != "/" {
			methods = append(methods, method)
		}
	}
	return methods
}
