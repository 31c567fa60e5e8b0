package app

import (
	"net/http"
	"net/netip"
	"time"

	"presence/internal/access"
	"presence/internal/forwarded"
	"presence/internal/terse"
)

// maxLogged is how many bytes of what a caller sent get into a line of the log.
const maxLogged = 200

// refused limits what is logged of requests that come from elsewhere than they should, or
// with a token that opens nothing.
type refused struct {
	origins terse.Line
	proxies terse.Line
	tokens  terse.Line
}

func newRefused() *refused {
	return &refused{origins: terse.Line{Every: time.Second}, tokens: terse.Line{Every: time.Second}}
}

// logOrigin says that a page of another site asked for something, and was refused.
func (a *App) logOrigin(r *http.Request) {
	if leftOut, due := a.refused.origins.Due(); due {
		a.log.WarnContext(r.Context(), "origin refused: see -allowed-origins",
			"origin", clip(r.Header.Get("Origin")), "host", clip(r.Host), "address", forwarded.ClientIP(r), "left_out", leftOut)
	}
}

// logToken says what is wrong with the token of a visitor of a page, without the token.
func (a *App) logToken(r *http.Request, refusal *access.Refusal) {
	if leftOut, due := a.refused.tokens.Due(); due {
		a.log.WarnContext(r.Context(), "token of a visitor refused",
			"reason", refusal.Reason, "detail", refusal.Detail, "path", clip(r.URL.Path), "address", forwarded.ClientIP(r), "left_out", leftOut)
	}
}

// proxies says that a proxy's headers do not count, since it is not trusted, for
// all requests that next gets.
func (a *App) proxies(trusted []netip.Prefix, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer, header := forwarded.Ignored(trusted, r); header != "" {
			if leftOut, due := a.refused.proxies.Due(); due {
				a.log.WarnContext(r.Context(), "header ignored: its sender is not one of -trusted-proxies",
					"header", header, "address", peer, "left_out", leftOut)
			}
		}
		next.ServeHTTP(w, r)
	})
}

// clip shortens what a caller sent.
func clip(s string) string {
	if len(s) > maxLogged {
		return s[:maxLogged] + "…"
	}
	return s
}
