package app

import (
	"errors"
	"net/http"
	"net/http/pprof"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"presence/api"
	"presence/internal/controller"
	"presence/internal/forwarded"
	"presence/internal/httpapi"
	"presence/internal/presence"
	"presence/templates"
	"presence/web"
)

const (
	// maxBody is the largest form that is read, in bytes.
	maxBody = 8 << 10

	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	writeTimeout      = 30 * time.Second
	idleTimeout       = 120 * time.Second // longer than balancers keep connections
	maxHeader         = 16 << 10
)

// server returns the HTTP server of h. The timeouts end with the upgrade of a
// socket, which has its own.
func (a *App) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          a.serverLog(),
	}
}

// routes are all addresses that the public listener answers.
func (a *App) routes() http.Handler {
	page := a.ownWords(a.controller.Handler(a.live, roomOf, a.secret.session))
	programs := httpapi.New(a.rooms, a.replica, httpapi.Options{
		Access: a.access, Keys: a.keys, MemberTTL: a.config.MemberTTL, Streams: a.streams,
		MaxMembers: a.config.MaxMembersPerRoom, Address: forwarded.ClientKey,
	})
	mux := &routeMux{ServeMux: http.NewServeMux()}
	call := func(pattern string, h http.HandlerFunc) { mux.Handle(pattern, a.limited(h)) }
	if a.config.Page {
		mux.Handle("/{$}", a.onlyRooms(page))
		mux.Handle("/rooms/{room}", a.onlyRooms(page))
		mux.HandleFunc("/rooms/{room}/{$}", a.withoutSlash)
		mux.HandleFunc("GET /rooms/{$}", a.withoutSlash)
		mux.HandleFunc("GET /rooms", a.listRooms)
		mux.Handle("GET "+web.Examples, a.assets)
	}
	mux.HandleFunc("GET /robots.txt", robots)
	mux.Handle("GET "+web.Favicon, a.assets)
	mux.Handle("GET "+web.Prefix, a.assets)
	programs.Routes(call)
	mux.HandleFunc("GET /openapi.json", api.Serve(api.OpenAPI))
	mux.HandleFunc("GET /asyncapi.json", api.Serve(api.AsyncAPI))
	a.healthRoutes(mux, publicReason, false)
	mux.HandleFunc("GET /lbz", a.lbz)
	mux.Handle("/", a.elsewhere(mux.ServeMux))

	trusted, _ := forwarded.ParseTrusted(a.config.TrustedProxies) // validated
	return literal(a.counted(mux, forwarded.Handler(trusted, a.proxies(trusted, a.secure(a.crossOrigin(mux.ServeMux, a.sameOrigin(limitForms(mux))))))))
}

// literal has the API see addresses as they were sent. The mux would lead from one with an
// empty segment, or with . or .. for a name, to another that means something else.
func literal(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if sent := r.URL.EscapedPath(); isAPI(r) && (strings.Contains(sent, "//") || strings.Contains(sent, "/.")) {
			r = r.WithContext(r.Context())
			r.URL = literalURL(*r.URL, sent)
		}
		next.ServeHTTP(w, r)
	})
}

// literalURL returns at, whose path was sent, with segments that the mux leaves as they are.
func literalURL(at url.URL, sent string) *url.URL {
	if strings.Contains(sent, "//") {
		at.Path, at.RawPath = "/v1/", "" // leads nowhere
		return &at
	}
	segments := strings.Split(sent, "/")
	for i, segment := range segments {
		if segment == "." || segment == ".." {
			segments[i] = strings.ReplaceAll(segment, ".", "%2e")
		}
	}
	at.RawPath = strings.Join(segments, "/")
	return &at
}

// limitForms bounds what is read of a form. The API has bounds of its own.
func limitForms(mux http.Handler) http.Handler {
	forms := http.MaxBytesHandler(mux, maxBody)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isAPI(r) {
			mux.ServeHTTP(w, r)
			return
		}
		forms.ServeHTTP(w, r)
	})
}

// adminRoutes are what operators ask.
func (a *App) adminRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
	a.healthRoutes(mux, adminReason, true)
	mux.HandleFunc("GET /replicas", a.listReplicas)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// roomOf is the room that a page's address names.
func roomOf(r *http.Request) string {
	if room := r.PathValue("room"); room != "" {
		return room
	}
	return controller.Lobby
}

// onlyRooms lets through what a page of a room can be asked for.
func (a *App) onlyRooms(page http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, ok := a.hasPage(w, r, roomOf(r))
		if !ok {
			return
		}
		switch r.Method {
		case http.MethodGet, http.MethodHead:
		case http.MethodPost:
			if !a.limiter.allow(forwarded.ClientKey(r)) {
				w.Header().Set("Retry-After", "1")
				a.notice(w, http.StatusTooManyRequests, templates.Notice{
					Title: "Too many requests", Text: "Please wait a moment and try again.",
				})
				return
			}
			form, err := controller.ReadForm(r)
			if err != nil {
				a.badForm(w, err)
				return
			}
			r = form
		default:
			a.notAllowed(w, r, "GET, HEAD, POST")
			return
		}
		page.ServeHTTP(w, r)
	})
}

// badForm answers a post that a page can't carry out. Nothing of it happened.
func (a *App) badForm(w http.ResponseWriter, err error) {
	status, n := http.StatusBadRequest, templates.Notice{
		Title: "This form can't be read", Text: "A form can only join or leave a room. Please go back to the page, load it again and press the button.",
	}
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		status, n = http.StatusRequestEntityTooLarge, templates.Notice{Title: "This form is too large", Text: "Please go back and type a shorter name."}
	}
	a.notice(w, status, n)
}

// withoutSlash leads from an address with a slash at its end to the one without.
func (a *App) withoutSlash(w http.ResponseWriter, r *http.Request) {
	if room := r.PathValue("room"); room != "" {
		if _, ok := a.hasPage(w, r, room); !ok {
			return
		}
	}
	to := url.URL{Path: strings.TrimSuffix(r.URL.Path, "/"), RawQuery: r.URL.RawQuery}
	http.Redirect(w, r, to.String(), http.StatusPermanentRedirect)
}

// listRooms lists the busiest rooms, and leads to the one that was asked for.
func (a *App) listRooms(w http.ResponseWriter, r *http.Request) {
	status := http.StatusOK
	list := templates.Rooms{Home: a.home()}
	if query := r.URL.Query(); query.Has("room") {
		list.Asked = strings.TrimSpace(query.Get("room"))
		if presence.CheckRoom(list.Asked) == nil {
			w.Header().Set("Cache-Control", "no-store")
			http.Redirect(w, r, controller.RoomPath(list.Asked), http.StatusSeeOther) //nolint:gosec // a checked name
			return
		}
		list.Refused = true
		status = http.StatusUnprocessableEntity
	}
	for _, busy := range a.replica.Busiest() {
		list.Busiest = append(list.Busiest, templates.RoomLink{
			Name: busy.Room, Path: controller.RoomPath(busy.Room), Users: busy.Users,
		})
	}
	a.page(w, status, list)
}

// robots asks search engines to leave out who is where.
func robots(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=86400")
	_, _ = w.Write([]byte("User-agent: *\nDisallow: /rooms\nDisallow: /v1/\n")) // an error is the caller's leaving
}

// elsewhere answers what mux knows no other answer to: addresses that lead nowhere,
// and methods that an address does not take.
func (a *App) elsewhere(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		allow := methodsOf(mux, r)
		switch {
		case len(allow) > 0:
			a.notAllowed(w, r, strings.Join(allow, ", "))
		case isAPI(r):
			httpapi.Problem(w, httpapi.NotFound, "/openapi.json lists the addresses of the API.")
		default:
			a.notFound(w)
		}
	})
}

// notAllowed answers a method that an address does not take; allow lists those that
// it does.
func (a *App) notAllowed(w http.ResponseWriter, r *http.Request, allow string) {
	w.Header().Set("Allow", allow)
	if isAPI(r) {
		httpapi.Problem(w, httpapi.MethodNotAllowed, "This address takes "+allow+".")
		return
	}
	answer(w, http.StatusMethodNotAllowed, "This address takes "+allow+".")
}

// isAPI reports whether r is for programs.
func isAPI(r *http.Request) bool { return r.URL.Path == "/v1" || strings.HasPrefix(r.URL.Path, "/v1/") }

// notice answers with what is said where there is no room to show.
func (a *App) notice(w http.ResponseWriter, status int, n templates.Notice) {
	n.Home = a.home()
	a.page(w, status, n)
}

// notFound answers where there is no page, in the same way for all such addresses.
func (a *App) notFound(w http.ResponseWriter) {
	n := templates.NotFound
	if !a.config.Page {
		n.Text = "This server has an API, and no pages."
	}
	a.notice(w, http.StatusNotFound, n)
}

// home is where the name of the site leads: to the lobby, unless it has no page; empty
// where there are no pages.
func (a *App) home() string {
	switch {
	case !a.config.Page:
		return ""
	case a.isPublic(controller.Lobby):
		return controller.RoomPath(controller.Lobby)
	default:
		return "/rooms"
	}
}

// page answers with a page that is not a room's.
func (a *App) page(w http.ResponseWriter, status int, page interface {
	Render(templates.Assets) ([]byte, error)
},
) {
	body, err := page.Render(a.assets)
	if err != nil {
		a.log.Error("page not rendered", "err", err)
		http.Error(w, http.StatusText(status), status)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(body) // an error is the browser's leaving
}

// secure sets the headers that keep a browser from being used against us.
func (a *App) secure(next http.Handler) http.Handler {
	policy := contentPolicy(a.assets.Origins(), a.config.embedders())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		// Others learn nothing. Under no-referrer forms would have no origin either, and
		// on plain HTTP nothing else tells that they are our own.
		h.Set("Referrer-Policy", "same-origin")
		if forwarded.IsHTTPS(r) { // elsewhere browsers ignore it, and complain
			h.Set("Cross-Origin-Opener-Policy", "same-origin")
		}
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// clientStyles are the hashes of the two style elements that the livetemplate
// client 0.25.1 puts into the page. A browser test fails when they change.
const clientStyles = "'sha256-tn5QAQTrBfr6g5S0WnBprqsjxFkLlXrdlKagTj3E+dQ=' 'sha256-6ZphanzaLuLsy/h29N+gmUlIjv0zp3A7L3iJxCr5PTU='"

// contentPolicy is the Content-Security-Policy (CSP level 3) of all answers, which load from
// origins and may be framed by embedders.
func contentPolicy(origins, embedders []string) string {
	if len(embedders) == 0 {
		embedders = []string{"'none'"}
	}
	others := strings.Join(append([]string{""}, origins...), " ")
	return strings.Join([]string{
		"default-src 'none'",
		"script-src 'self'" + others,
		"style-src 'self'" + others + " " + clientStyles,
		"img-src 'self'",
		"connect-src 'self'",
		"form-action 'self'",
		"base-uri 'none'",
		"frame-ancestors " + strings.Join(embedders, " "),
	}, "; ")
}

// sameOrigin refuses forms that other sites post with a visitor's cookies. The API
// looks at no cookie: what it is called with, a page must have been given.
func (a *App) sameOrigin(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	for _, origin := range a.config.origins() {
		if err := protection.AddTrustedOrigin(forwarded.Origin(origin)); err != nil {
			a.log.Error("origin not trusted", "origin", origin, "err", err) // validated: can't be
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isAPI(r) {
			next.ServeHTTP(w, r)
			return
		}
		// It compares texts, so what it is given has one form.
		plain := r.WithContext(r.Context())
		if origin := r.Header.Get("Origin"); origin != "" {
			origin = forwarded.Origin(origin)
			scheme, _, _ := strings.Cut(origin, "://")
			plain.Host = forwarded.Host(scheme, r.Host)
			plain.Header = r.Header.Clone()
			plain.Header.Set("Origin", origin)
		}
		if protection.Check(plain) != nil {
			a.logOrigin(r)
			http.Error(w, "This form was sent by a page of another site.", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// originAllowed reports whether a page of r's origin may open a socket: our own
// page, one of the allowed origins, or a program that is no browser.
func (a *App) originAllowed(r *http.Request) bool {
	allowed := forwarded.SameOrigin(r) || slices.ContainsFunc(a.config.origins(), func(origin string) bool {
		return forwarded.Origin(origin) == forwarded.Origin(r.Header.Get("Origin"))
	})
	if !allowed {
		a.logOrigin(r)
	}
	return allowed
}
