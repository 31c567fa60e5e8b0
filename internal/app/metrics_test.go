package app

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"presence/internal/redistest"
)

// metrics reads what the server tells of itself: the value of each series.
func (r *running) metrics(b *browser) map[string]float64 {
	b.t.Helper()
	text := b.get("http://" + r.AdminAddr() + "/metrics")
	values := map[string]float64{}
	for line := range strings.Lines(text) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if ok {
			series += "}"
		} else {
			series, value, _ = strings.Cut(strings.TrimSpace(line), " ")
		}
		if n, err := strconv.ParseFloat(value, 64); err == nil && series != "#" {
			values[series] = n
		}
	}
	return values
}

func TestCountersExistFromTheStart(t *testing.T) {
	a := start(t, nil).ready(t)
	b := newBrowser(t)
	got := a.metrics(b)
	demandZero := func(series string) {
		t.Helper()
		if n, ok := got[series]; !ok || n != 0 {
			t.Errorf("%s is %v (there: %v), want 0", series, n, ok)
		}
	}
	for _, script := range []string{"join", "leave", "resume", "release"} {
		demandZero(`presence_redis_call_errors_total{script="` + script + `"}`)
		demandZero(`presence_redis_batch_connections_count{script="` + script + `"}`)
		demandZero(`presence_redis_call_duration_seconds_count{script="` + script + `"}`)
	}
	for _, script := range []string{"heartbeat", "sweep", "read", "register", "forget", "message"} {
		demandZero(`presence_redis_call_errors_total{script="` + script + `"}`)
	}
	for _, reason := range []string{"name", "room_full", "too_many_rooms", "address", "redis_full", "damaged", "unavailable", "other"} {
		demandZero(`presence_refusals_total{action="join",reason="` + reason + `"}`)
	}
	for _, action := range []string{"leave", "resume"} {
		demandZero(`presence_refusals_total{action="` + action + `",reason="unavailable"}`)
	}
	for _, action := range []string{"join", "leave", "resume"} {
		demandZero(`presence_actions_total{action="` + action + `"}`)
	}
	for _, route := range []string{"/", "/rooms/{room}", "/assets/", "/v1/rooms/{room}", "/livez", "/readyz", "/lbz", "other"} {
		for _, code := range []string{"101", "200", "303", "304", "400", "403", "404", "405", "413", "429", "500", "503", "2xx", "3xx", "4xx", "5xx"} {
			demandZero(`presence_http_responses_total{code="` + code + `",route="` + route + `"}`)
		}
	}
	demandZero(`presence_change_shown_seconds_count`)
	build := regexp.MustCompile(`^presence_build_info\{go_version="go1\.[^"]+",revision="[^"]+",version="[^"]+"\}$`)
	found := false
	for series, n := range got {
		found = found || build.MatchString(series) && n == 1
	}
	if !found {
		t.Error("presence_build_info is not there")
	}
}

func TestActionsAndAnswersAreCounted(t *testing.T) {
	a := start(t, func(c *Config) { c.MaxMembersPerRoom = 1 }).ready(t)
	ann, ben := newBrowser(t), newBrowser(t)
	viewer := ben.open(a, "/rooms/tea?tab=bbbbbbbbbbbbbbbb")
	viewer.until(`"tree"`)
	ann.post(a.url("/rooms/tea"), join("Ann"))
	ann.post(a.url("/rooms/tea"), join(""))
	ben.post(a.url("/rooms/tea"), join("Ben"))
	viewer.until("Ann")
	shown := func(n float64) {
		redistest.Eventually(t, 5*time.Second, "a change has been shown, and was timed", func() bool {
			return a.metrics(ann)["presence_change_shown_seconds_count"] >= n
		})
	}
	shown(1)
	ann.post(a.url("/rooms/tea"), leave)
	ann.do(http.MethodGet, a.url("/rooms/a.b"), "")
	ann.do(http.MethodGet, a.url("/secret-4711"), "")
	ann.do(http.MethodPost, a.url("/"), join("Ann").Encode(), "Origin", "https://evil.example")
	want := map[string]float64{
		`presence_actions_total{action="join"}`:                           1,
		`presence_actions_total{action="leave"}`:                          1,
		`presence_refusals_total{action="join",reason="name"}`:            1,
		`presence_refusals_total{action="join",reason="room_full"}`:       1,
		`presence_http_responses_total{code="101",route="/rooms/{room}"}`: 1,
		`presence_http_responses_total{code="404",route="/rooms/{room}"}`: 1,
		`presence_http_responses_total{code="404",route="other"}`:         1,
		`presence_http_responses_total{code="403",route="/"}`:             1,
		`presence_redis_call_errors_total{script="join"}`:                 0,
		`presence_http_responses_total{code="500",route="/rooms/{room}"}`: 0,
		`presence_refusals_total{action="join",reason="other"}`:           0,
		`presence_redis_batch_connections_bucket{script="join",le="1"}`:   2, // one call each
		`presence_redis_batch_connections_bucket{script="resume",le="1"}`: 1,
	}
	got := a.metrics(ann)
	for series, n := range want {
		if value, ok := got[series]; !ok || value != n {
			t.Errorf("%s is %v (there: %v), want %v", series, value, ok, n)
		}
	}
	for series := range got {
		if strings.Contains(series, "4711") || strings.Contains(series, "tea") {
			t.Errorf("%s names what a visitor chose", series)
		}
	}
	shown(2)
}
