package templates

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/livetemplate/livetemplate"
	"golang.org/x/net/html"

	"presence/internal/controller"
	"presence/internal/presence"
)

// assets stands in for web.Assets.
type assets struct{ integrity string }

func (a assets) URL(name string) string  { return "/assets/hash." + name }
func (a assets) Integrity(string) string { return a.integrity }

// state is a room with Ann and Bob, as a visitor sees it who has not joined.
func state() controller.PresenceState {
	return controller.PresenceState{
		Room: "lobby", Known: true, Users: 2, Connections: 2,
		Roster: []controller.Row{{ID: "idOfAnn", Name: "Ann"}, {ID: "idOfBob", Name: "Bob"}},
		Rooms: []controller.RoomLink{
			{Name: "lobby", Path: "/", Here: true},
			{Name: "tea", Path: "/rooms/tea"},
		},
		Home: "/", Replica: "replica-1", Backend: "single replica, in memory", Refresh: 10,
	}
}

// render is the page for s with the messages of livetemplate, as flashes are
// passed.
func render(t *testing.T, s controller.PresenceState, messages map[string]string) document {
	t.Helper()
	page, err := livetemplate.New("presence", Options(assets{})...)
	if err != nil {
		t.Fatalf("livetemplate.New: %v", err)
	}
	var out bytes.Buffer
	if err := page.Execute(&out, s, messages); err != nil {
		t.Fatalf("Execute: %v", err)
	}
	return parse(t, out.Bytes())
}

func TestShell(t *testing.T) {
	page := render(t, state(), nil)
	page.has(t, "title", "2 online · lobby · Presence")
	page.one(t, "meta[name=description]")
	page.attr(t, "body", "data-lvt-heartbeat-ms", "6000")
	page.attr(t, "link[rel=icon]", "href", "/assets/hash.icon.svg")
	page.attr(t, "script", "src", "/assets/hash.page.js")
	page.attr(t, "script", "data-client", "/assets/hash.client.js")
	page.count(t, "style", 0)
	page.count(t, "script", 1)
	page.count(t, "[style]", 0)
	page.count(t, "[data-lvt-id]", 1)
	page.count(t, "[data-lvt-loading]", 0)
	page.count(t, "[integrity]", 0)
	page.attr(t, "script", "data-refresh", "10")
	page.attr(t, "script", "blocking", "render")
}

// Without JavaScript a joined page is its own heartbeat. One with a field may hold
// half a name, and waits to be told.
func TestOnlyAJoinedPageRefreshesItself(t *testing.T) {
	s := state()
	render(t, s, nil).count(t, "meta[http-equiv=refresh]", 0)
	s.Joined, s.Username = true, "Ann"
	page := render(t, s, nil)
	page.contains(t, "noscript", `<meta http-equiv="refresh" content="10">`)
}

// The picture and the words by which a room is shown where people share its address.
// Other places want whole addresses.
func TestPreviewOfARoom(t *testing.T) {
	s := state()
	s.Room, s.Origin = "tea", "https://example.org"
	head := render(t, s, nil)
	for property, want := range map[string]string{
		"og:title": "tea · Presence",
		"og:url":   "https://example.org/rooms/tea",
		"og:image": "https://example.org/assets/hash.card.png",
	} {
		head.attr(t, "meta[property="+property+"]", "content", want)
	}
	// A token may open rooms that guests do not see.
	s.As = "42"
	render(t, s, nil).count(t, "meta[property]", 0)
	// A page that is of no room names none, nor does one of a room that has no page.
	notice, err := NotFound.Render(assets{})
	if err != nil {
		t.Fatal(err)
	}
	parse(t, notice).count(t, "meta[property]", 0)
}

func TestShellHoldsTheCDNToItsHashes(t *testing.T) {
	page, err := livetemplate.New("presence", Options(assets{integrity: "sha384-a+b/c="})...)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := page.Execute(&out, state()); err != nil {
		t.Fatal(err)
	}
	doc := parse(t, out.Bytes())
	doc.attr(t, "link[rel=stylesheet]", "integrity", "sha384-a+b/c=")
	doc.attr(t, "link[rel=stylesheet]", "crossorigin", "anonymous")
	doc.attr(t, "link[rel=preload]", "integrity", "sha384-a+b/c=")
	doc.attr(t, "script", "data-integrity", "sha384-a+b/c=")
}

func TestNotJoined(t *testing.T) {
	page := render(t, state(), nil)
	page.has(t, "mark", "2 user(s) online")
	page.attr(t, "mark", "aria-live", "polite")
	for child := range page.one(t, "mark").ChildNodes() {
		if child.Type != html.TextNode {
			t.Errorf("in the mark stands %q", child.Data)
		}
	}
	page.has(t, "b[class=number]", "2")
	page.attr(t, "b[class=number]", "aria-hidden", "true")
	page.attr(t, "[data-digits]", "data-digits", "1")
	page.attr(t, "[data-joined]", "data-joined", "false")
	page.attr(t, "[data-joined]", "data-stale", "false")
	page.attr(t, "[data-joined]", "data-room", "lobby")
	page.count(t, "form", 1)
	page.attr(t, "form", "method", "POST")
	page.attr(t, "input[name=lvt-action]", "value", "join")
	page.attr(t, "input[name=username]", "value", "")
	page.attr(t, "input[name=username]", "maxlength", strconv.Itoa(presence.MaxNameBytes)) // cuts nothing that the server takes
	page.attr(t, "input[name=username]", "autocomplete", "nickname")
	page.attr(t, "label", "for", page.first(t, "input[name=username]", "id"))
	page.count(t, "input[required]", 0)
	page.count(t, "[aria-invalid]", 0)
	page.has(t, "button[name=join]", "Join")
	page.count(t, "button[value]", 0)
	page.count(t, "button[name=leave]", 0)
	page.has(t, "[role=alert]", "")
	page.count(t, "small", 0)
}

func TestJoined(t *testing.T) {
	s := state()
	s.Joined, s.Username, s.Connections = true, "Ann", 3
	s.Roster[0].Own = true
	page := render(t, s, nil)
	page.attr(t, "[data-joined]", "data-joined", "true")
	page.attr(t, "[data-joined]", "data-name", "Ann")
	page.contains(t, "form", "Logged in as <strong>Ann</strong>")
	page.attr(t, "form", "method", "POST")
	page.attr(t, "input[name=lvt-action]", "value", "leave")
	page.has(t, "button[name=leave]", "Leave")
	page.count(t, "button[name=join]", 0)
	page.count(t, "input[name=username]", 0)
	page.has(t, "small", "you")
	page.count(t, "small", 2) // in the list, and above it for where that ends before
	page.contains(t, "main", "on 3 connections")
}

func TestConnectionsAreShownWhereTheyDiffer(t *testing.T) {
	page := render(t, state(), nil)
	if text := page.text(t, "main"); strings.Contains(text, "connections") {
		t.Errorf("2 users on 2 connections: main is %q", text)
	}
}

func TestRoster(t *testing.T) {
	page := render(t, state(), nil)
	rows := page.all("li[data-key]")
	if len(rows) != 2 {
		t.Fatalf("%d rows, want 2", len(rows))
	}
	for i, want := range []string{"Ann", "Bob"} {
		if got := textOf(rows[i]); got != want {
			t.Errorf("row %d is %q, want %q", i, got, want)
		}
	}
	page.attr(t, "li[data-key]", "data-key", "idOfAnn")
	page.attr(t, "i[data-initial]", "data-initial", "A")
	page.attr(t, "i[data-initial]", "data-hue", "7")

	// The client applies changes of a list rightly only where the rows are
	// alone in their parent.
	for n := range rows[0].Parent.ChildNodes() {
		if n.Type != html.ElementNode || n.Data != "li" {
			t.Errorf("beside the rows stands %q", n.Data)
		}
	}
	page.count(t, "[data-key]", 2) // no other list has keys
}

func TestRosterOfMany(t *testing.T) {
	s := state()
	s.Roster = nil
	for i := range 100 {
		s.Roster = append(s.Roster, controller.Row{ID: fmt.Sprint("id", i), Name: fmt.Sprint("Visitor ", i)})
	}
	s.Users, s.More = 105, 5
	page := render(t, s, nil)
	page.has(t, "mark", "105 user(s) online")
	page.count(t, "li[data-key]", 100)
	page.contains(t, "main", "and 5 more")
	if text := textOf(page.all("li[data-key]")[0].Parent); strings.Contains(text, "more") {
		t.Errorf("the rest is counted within the list")
	}
}

func TestEmptyRoom(t *testing.T) {
	s := state()
	s.Users, s.Connections, s.Roster = 0, 0, nil
	page := render(t, s, nil)
	page.has(t, "mark", "0 user(s) online")
	page.count(t, "[data-key]", 0)
	page.contains(t, "main", "Nobody yet")
}

func TestNothingIsKnown(t *testing.T) {
	page := render(t, controller.PresenceState{Room: "lobby", Stale: true}, nil)
	page.has(t, "mark", "– user(s) online")
	page.has(t, "b[class=number]", "–")
}

func TestStale(t *testing.T) {
	s := state()
	s.Stale = true
	page := render(t, s, nil)
	page.attr(t, "[data-joined]", "data-stale", "true")
	page.has(t, "mark", "2 user(s) online")
	page.contains(t, "header", "Not up to date")
	page.contains(t, "main", "how it was a while ago")
	s.Known = false
	page = render(t, s, nil)
	page.contains(t, "main", "can’t tell yet")
	if title := page.text(t, "title"); title != "lobby · Presence" {
		t.Errorf("the title is %q, where the number is not known", title)
	}
}

func TestRefusals(t *testing.T) {
	s := state()
	page := render(t, s, map[string]string{
		"username":       "A name has 1 to 40 characters.",
		"_flash:nameerr": "A name has 1 to 40 characters.",
		"_flash:notice":  "Not now.",
		"_flash:typed":   "no\"body",
	})
	page.attr(t, "input[name=username]", "value", "no\"body")
	page.attr(t, "input[name=username]", "aria-invalid", "true")
	page.attr(t, "input[name=username]", "aria-describedby", "username-error")
	page.has(t, "[id=username-error]", "A name has 1 to 40 characters.")
	page.attr(t, "[id=username-error]", "role", "alert")
	page.has(t, "[role=alert]", "Not now.")
	page.one(t, "input[autofocus]")
}

func TestFooter(t *testing.T) {
	page := render(t, state(), nil)
	page.contains(t, "footer", "replica-1")
	page.contains(t, "footer", "in memory")
	page.attr(t, "a[aria-current=page]", "href", "/")
	page.count(t, "a[aria-current]", 1)
	links := page.all("a[href=/rooms/tea]")
	// A number would be as old as the page.
	if len(links) != 1 || textOf(links[0]) != "tea" {
		t.Errorf("links to the room tea: %d, want one that says its name and no more", len(links))
	}
	for _, a := range page.all("a[href]") {
		// Only a full load lets page and socket agree about the room.
		if target := attrOf(a, "target"); target != "_top" && (target != "_blank" || attrOf(a, "rel") != "noopener") {
			t.Errorf("link to %s is left to the client", attrOf(a, "href"))
		}
	}
}

func TestNamesAreText(t *testing.T) {
	evil := `<img src=x onerror="alert(1)">'"&{{.Room}}`
	s := state()
	s.Joined, s.Username = true, evil
	s.Roster[0].Name, s.Roster[0].Own = evil, true
	page := render(t, s, map[string]string{"_flash:notice": evil})
	page.count(t, "img", 0)
	page.has(t, "strong", evil)
	page.attr(t, "[data-joined]", "data-name", evil)
	page.has(t, "[role=alert]", evil)
	if got := textOf(page.all("li[data-key]")[0]); got != evil+" you" {
		t.Errorf("row of Ann is %q", got)
	}
}

func TestUpdatesCarryOnlyWhatChanged(t *testing.T) {
	page, err := livetemplate.New("presence", Options(assets{})...)
	if err != nil {
		t.Fatal(err)
	}
	s := state()
	var first, second bytes.Buffer
	if err := page.ExecuteUpdates(&first, s); err != nil {
		t.Fatal(err)
	}
	s.Users, s.Connections = 3, 3
	s.Roster = append(s.Roster, controller.Row{ID: "idOfCid", Name: "Cid"})
	if err := page.ExecuteUpdates(&second, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"3"`, "idOfCid", "Cid"} {
		if !strings.Contains(second.String(), want) {
			t.Errorf("the update lacks %s: %s", want, &second)
		}
	}
	for _, not := range []string{"idOfAnn", "lobby", "replica-1", "<form", "<ul"} {
		if strings.Contains(second.String(), not) {
			t.Errorf("the update repeats %s: %s", not, &second)
		}
	}
}

func TestNotice(t *testing.T) {
	show := func(home string) document {
		t.Helper()
		n := NotFound
		n.Home = home
		text, err := n.Render(assets{})
		if err != nil {
			t.Fatalf("Render: %v", err)
		}
		return parse(t, text)
	}
	for home, links := range map[string]int{"": 0, "/rooms": 2} {
		page := show(home)
		page.has(t, "[class=brand]", "Presence")
		page.count(t, "a", links)
		page.count(t, "a[href=/rooms]", links)
	}
	page := show("/")
	page.has(t, "h1", NotFound.Title)
	page.contains(t, "title", "Presence")
	page.count(t, "script", 0)
	page.attr(t, "link[rel=icon]", "href", "/assets/hash.icon.svg")
	page.contains(t, "main", "/rooms/tea-break")
	page.count(t, "a[href=/]", 2)
}

func TestRooms(t *testing.T) {
	show := func(r Rooms) document {
		t.Helper()
		text, err := r.Render(assets{})
		if err != nil {
			t.Fatalf("Render: %v", err)
		}
		return parse(t, text)
	}
	page := show(Rooms{Busiest: []RoomLink{{Name: "tea", Path: "/rooms/tea", Users: 7}}})
	page.has(t, "a[href=/rooms/tea]", "tea 7 online")
	page.attr(t, "form", "action", "/rooms")
	page.attr(t, "form", "method", "GET")
	page.attr(t, "input", "name", "room")
	page.count(t, "script", 0)
	page.count(t, "[role=alert]", 0)
	page = show(Rooms{Asked: `a"b`, Refused: true})
	page.attr(t, "input", "value", `a"b`)
	page.attr(t, "input", "aria-invalid", "true")
	page.has(t, "[role=alert]", "No room can have this name.")
	page.contains(t, "main", "Nobody is in any room that everybody may see.")
	page = show(Rooms{Home: "/"})
	page.contains(t, "main", "Go to the lobby")
}
