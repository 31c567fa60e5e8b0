package httpapi

import (
	"strings"
	"testing"
	"time"

	"presence/internal/redistest"
)

// HEAD of a stream gives its headers; what is wrong with a request is said before a stream
// begins.
func TestStreamsThatDoNotBegin(t *testing.T) {
	bubble(t, func(t *testing.T, s *server, _ *redistest.Fake) {
		watcher := as(token("ann", time.Hour, `,"presence":{"rooms":{"lobby":["observe"],"tea":["observe"]}}`))
		for path, statuses := range map[string][5]int{ // with a key, a token, a key for another room, none, and a bad one
			"/v1/rooms/lobby/events":                         {200, 200, 403, 401, 401},
			"/v1/rooms/lobby/events?after=7&mode=count":      {200, 200, 403, 401, 401},
			"/v1/rooms/lobby/events?join=c1&user=ann":        {200, 403, 403, 401, 401},
			"/v1/rooms/lobby/events?join=c1&user=ann&name=A": {200, 403, 403, 401, 401},
			"/v1/rooms/lobby/events?join=c1":                 {422, 403, 403, 401, 401}, // a key speaks for nobody
			"/v1/rooms/lobby/events?join=c1&user=..":         {422, 403, 403, 401, 401},
			"/v1/rooms/lobby/events?mode=x":                  {422, 422, 403, 401, 401},
			"/v1/rooms/lobby/events?after=":                  {422, 422, 403, 401, 401},
			"/v1/rooms/public/events":                        {200, 200, 200, 200, 401},
			"/v1/rooms/a.b/events":                           {404, 404, 404, 404, 404},
			"/v1/events?rooms=lobby,tea":                     {200, 200, 403, 401, 401},
			"/v1/events?rooms=lobby&rooms=tea":               {200, 200, 403, 401, 401},
			"/v1/events?rooms=public,lobby":                  {200, 200, 403, 401, 401},
			"/v1/events?rooms=lobby,a.b":                     {404, 404, 404, 404, 404},
			"/v1/events?rooms=lobby&join=c1":                 {422, 422, 403, 401, 401},
			"/v1/events?rooms=":                              {422, 422, 422, 422, 401},
			"/v1/events":                                     {422, 422, 422, 422, 401},
		} {
			for i, who := range [][]string{as(key), watcher, as(otherKey), {"Authorization", ""}, as("psk_x")} {
				a := s.want(statuses[i], "HEAD", path, "", who...)
				if a.Code == 200 && (a.Header().Get("Content-Type") != "text/event-stream" || a.Header().Get("Connection") != "close") {
					t.Errorf("HEAD %s: %v", path, a.Header())
				}
				status := statuses[i]
				if status == 200 {
					if strings.Contains(path, "join") {
						continue // GET joins
					}
					status = 503 // a recorder has no connection to take over
				}
				s.want(status, "GET", path, "", who...)
			}
		}
		s.sees("lobby", "")
	})
}
