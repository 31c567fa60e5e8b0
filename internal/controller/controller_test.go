package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
	"presence/internal/replica"
)

func TestTextOfWhatTheClientMadeOfAName(t *testing.T) {
	for want, value := range map[string]any{"42": 42.0, "0.5": 0.5, "true": true, "false": false, "Ann": "Ann"} {
		if got := text(value); got != want {
			t.Errorf("text(%v) = %q, want %q", value, got, want)
		}
	}
	for _, value := range []any{nil, []any{"x"}, map[string]any{"a": 1.0}} {
		if got := text(value); got != "" {
			t.Errorf("text(%v) = %q", value, got)
		}
	}
}

func view(users int, names ...string) replica.View {
	v := replica.View{AsOf: time.Now()}
	v.Users, v.Connections = users, users
	for _, name := range names {
		v.Roster = append(v.Roster, presence.User{ID: "id-" + name, Name: name})
	}
	return v
}

// rows is the roster as text, the own row in brackets.
func rows(s PresenceState) string {
	var text strings.Builder
	for _, row := range s.Roster {
		if row.Own {
			fmt.Fprintf(&text, "[%s] ", row.Name)
		} else {
			fmt.Fprintf(&text, "%s ", row.Name)
		}
	}
	return text.String()
}

func TestStateShowsTheViewAndMarksItsOwnRow(t *testing.T) {
	s := PresenceState{}.as(presence.User{ID: "id-Ben", Name: "Ben"}).Shows(view(5, "Ann", "Ben"))
	if got := rows(s); got != "Ann [Ben] " || s.More != 3 || !s.Known || s.Stale {
		t.Errorf("%q, %+v", got, s)
	}
	if s := s.Shows(replica.View{Stale: true}); s.Known || !s.Stale || len(s.Roster) != 0 {
		t.Errorf("nothing known: %+v", s)
	}
}

func TestOwnNameIsListedAtOnceAndOnlyOnce(t *testing.T) {
	me := presence.User{ID: "id-me", Name: "me"}
	s := PresenceState{}.Shows(view(1, "Ann")).as(me).counts(presence.Occupancy{Users: 2, Connections: 2}).listed(me)
	if got := rows(s); got != "Ann [me] " || s.More != 0 {
		t.Errorf("%q, %d more", got, s.More)
	}
	if got := rows(s.listed(me)); got != "Ann [me] " {
		t.Errorf("listed twice: %q", got)
	}
	full := PresenceState{}
	for i := range presence.RosterSize {
		full.Roster = append(full.Roster, Row{ID: fmt.Sprint(i)})
	}
	full = full.as(me).counts(presence.Occupancy{Users: presence.RosterSize + 1}).listed(me)
	if len(full.Roster) != presence.RosterSize || full.More != 1 {
		t.Errorf("%d rows, %d more", len(full.Roster), full.More)
	}
	if got := rows(s.unlisted("id-me")); got != "Ann " {
		t.Errorf("after leaving: %q", got)
	}
}

func TestRoomLinks(t *testing.T) {
	if roomPath(Lobby) != "/" || roomPath("tea") != "/rooms/tea" {
		t.Error(roomPath(Lobby), roomPath("tea"))
	}
}

func TestStateIsPureData(t *testing.T) { livetemplate.AssertPureState[PresenceState](t) }
