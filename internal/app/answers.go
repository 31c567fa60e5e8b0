package app

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// routeMux is a [http.ServeMux] that knows its routes.
type routeMux struct {
	*http.ServeMux

	routes []string
}

// Handle adds a route.
func (m *routeMux) Handle(pattern string, h http.Handler) {
	m.ServeMux.Handle(pattern, h)
	if route := routeOf(pattern); !slices.Contains(m.routes, route) {
		m.routes = append(m.routes, route)
	}
}

// HandleFunc adds a route.
func (m *routeMux) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	m.Handle(pattern, http.HandlerFunc(h))
}

// otherRoute is the label of all addresses that have no route.
const otherRoute = "other"

// routeOf is the label of a pattern: without a method, and "/" for the root alone.
func routeOf(pattern string) string {
	if _, path, ok := strings.Cut(pattern, " "); ok {
		pattern = path
	}
	switch pattern {
	case "", "/":
		return otherRoute
	case "/{$}":
		return "/"
	default:
		return pattern
	}
}

// codes are the statuses that are counted by themselves; others count as 2xx to 5xx.
// 101 is a socket that was opened.
func codes() []int {
	return []int{
		http.StatusSwitchingProtocols, http.StatusOK, http.StatusSeeOther, http.StatusNotModified,
		http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed,
		http.StatusRequestEntityTooLarge, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable,
	}
}

// codeOf is the label of a status.
func codeOf(status int) string {
	if slices.Contains(codes(), status) {
		return strconv.Itoa(status)
	}
	return fmt.Sprintf("%dxx", status/100)
}

// counted counts the answers of next, by status and by the route of the request in mux.
// Each label value exists from the start.
func (a *App) counted(mux *routeMux, next http.Handler) http.Handler {
	total := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "presence_http_responses_total",
		Help: "Answers of the public listener, by route and status. 101 is a socket that was opened.",
	}, []string{"route", "code"})
	a.registry.MustRegister(total)
	for _, route := range mux.routes {
		for _, status := range codes() {
			total.WithLabelValues(route, codeOf(status))
		}
		for _, class := range []string{"2xx", "3xx", "4xx", "5xx"} {
			total.WithLabelValues(route, class)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, pattern := mux.Handler(r)
		route := routeOf(pattern)
		if !slices.Contains(mux.routes, route) {
			route = otherRoute // a redirect of the mux
		}
		response := &response{ResponseWriter: w, count: func(status int) { total.WithLabelValues(route, codeOf(status)).Inc() }}
		next.ServeHTTP(response, r)
		response.is(http.StatusOK) // unless it was something else
	})
}

// response is a response that is counted as soon as its status is known.
type response struct {
	http.ResponseWriter

	count   func(status int)
	counted bool
}

// is counts the answer, once.
func (r *response) is(status int) {
	if !r.counted && (status >= http.StatusOK || status == http.StatusSwitchingProtocols) {
		r.counted = true
		r.count(status)
	}
}

// WriteHeader sends the status.
func (r *response) WriteHeader(status int) {
	r.is(status)
	r.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the body.
func (r *response) Write(b []byte) (int, error) {
	r.is(http.StatusOK)
	return r.ResponseWriter.Write(b)
}

// Hijack gives the connection away, which becomes a socket or an event stream.
func (r *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(r.ResponseWriter).Hijack()
	switch {
	case err != nil:
	case r.Header().Get("Content-Type") == "text/event-stream":
		r.is(http.StatusOK)
	default:
		r.is(http.StatusSwitchingProtocols)
	}
	return conn, rw, err
}

// Unwrap is for [http.ResponseController].
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }
