package app

import (
	"net/http"
	"strings"
	"testing"
)

// Who chose the name on a page is a guest to programs, in events and in lists; who came by
// a program is none, under the same name.
func TestGuestsAreTold(t *testing.T) {
	a := start(t, nil).ready(t)
	key := []string{"Authorization", "Bearer " + a.RunKey()}
	eyes := a.events(t, "/v1/rooms/lobby/events")
	event(t, eyes)
	newBrowser(t).post(a.url("/"), join("Ada"))
	if _, kind, data := event(t, eyes); kind != "diff" || !strings.Contains(data, `"name":"Ada","guest":true,"connections":1`) {
		t.Errorf("a guest: %s %s", kind, data)
	}
	if resp, body := newBrowser(t).do(http.MethodPut, a.url("/v1/rooms/lobby/connections/c1"), `{"user":"42","name":"Ada"}`, key...); resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status, body)
	}
	if _, kind, data := event(t, eyes); kind != "diff" || !strings.Contains(data, `"user":"42","name":"Ada","connections":1`) {
		t.Errorf("a program's user: %s %s", kind, data)
	}
	_, members := newBrowser(t).do(http.MethodGet, a.url("/v1/rooms/lobby/members"), "")
	_, _, snapshot := event(t, a.events(t, "/v1/rooms/lobby/events"))
	for _, body := range []string{members, snapshot} {
		if strings.Count(body, `"guest":true`) != 1 || strings.Contains(body, `"guest":false`) {
			t.Errorf("not one guest: %s", body)
		}
	}
}
