package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
	"presence/internal/room"
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

func view(users int, names ...string) room.View {
	v := room.View{AsOf: time.Now()}
	v.Users, v.Connections = users, users
	for _, name := range names {
		v.Members = append(v.Members, presence.Member{User: presence.User{ID: "id-" + name, Name: name}, Connections: 1})
	}
	return v
}

// rows returns the roster as text, with the visitor's own row in brackets.
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
	if s := s.Shows(room.View{Stale: true}); s.Known || !s.Stale || len(s.Roster) != 0 {
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

func TestInitialIsWhatPeopleTakeForTheFirstLetter(t *testing.T) {
	for name, want := range map[string]string{
		"ann": "A", "Ann": "A", "éva": "É", "e\u0301va": "E\u0301", "ßen": "ß", "ǆep": "ǅ", "ღia": "ღ",
		"🇳🇱 Jan": "🇳🇱", "👩\u200d💻 Zoë": "👩\u200d💻", "1st": "1", "नि": "नि", "": "",
	} {
		if got := (Row{Name: name}).Initial(); got != want {
			t.Errorf("the initial of %q is %q, want %q", name, got, want)
		}
	}
}

func TestUsersOfOneNameAreToldApart(t *testing.T) {
	named := func(id, name string) presence.Member { return presence.Member{User: presence.User{ID: id, Name: name}} }
	roster := []presence.Member{named("1", "Ann"), named("2", "Ben"), named("3", "ann")}
	for _, row := range rowsOf(roster) {
		if row.Tag != "" {
			t.Errorf("%s is the only one of the name, and tagged %s", row.Name, row.Tag)
		}
	}
	first := ""
	for i := range presence.RosterSize {
		roster = append(roster, named(fmt.Sprint("ann-", i), "Ann"))
		rows := rowsOf(roster)
		tags := map[string]bool{}
		for _, row := range rows {
			if row.Name == "Ann" {
				tags[row.Tag] = true
			}
		}
		if len(tags) != i+2 || tags[""] {
			t.Fatalf("%d users of one name have %d tags", i+2, len(tags))
		}
		if i == 0 {
			first = rows[0].Tag
		}
		if len(first) != minTag || !strings.HasPrefix(rows[0].Tag, first) {
			t.Fatalf("the tag was %s and is %s", first, rows[0].Tag)
		}
	}
}

func TestRoomLinks(t *testing.T) {
	if RoomPath(Lobby) != "/" || RoomPath("tea") != "/rooms/tea" {
		t.Error(RoomPath(Lobby), RoomPath("tea"))
	}
}

func TestStateIsPureData(t *testing.T) { livetemplate.AssertPureState[PresenceState](t) }
