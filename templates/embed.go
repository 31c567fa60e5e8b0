// Package templates holds the pages: the live page of a room, the list of rooms,
// and the page that is shown where there is no room to show.
package templates

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"

	"github.com/livetemplate/livetemplate"
)

//go:embed *.tmpl
var files embed.FS

// Assets says where the browser finds the files that pages refer to by name.
// [presence/web.Assets] does.
type Assets interface {
	// URL returns the address of an asset.
	URL(name string) string
	// Integrity returns the hash an asset from another host is held to, and an
	// empty string for our own.
	Integrity(name string) string
}

// funcs are what layout.tmpl calls.
func funcs(a Assets) template.FuncMap {
	return template.FuncMap{"asset": a.URL, "integrity": a.Integrity}
}

// Options are the options with which [livetemplate.New] makes the page of a
// room, to be rendered from a controller.PresenceState.
//
// livetemplate parses within New, before functions could be added; only
// component templates bring their own. So the layout goes in as a component. Its
// functions may be called in the head alone: what is in the body is parsed
// again for updates, without them.
func Options(a Assets) []livetemplate.Option {
	return []livetemplate.Option{
		livetemplate.WithComponentTemplates(&livetemplate.TemplateSet{
			FS: files, Pattern: "layout.tmpl", Namespace: "presence", Funcs: funcs(a),
		}),
		livetemplate.WithParseFS(files, "presence.tmpl"),
		// Forms work before the first frame and without one.
		livetemplate.WithLoadingDisabled(),
	}
}

// Notice is what a page says that is not a room's.
type Notice struct {
	Title string // what is the matter, such as "There is no such room"
	Text  string // what to do about it, in a sentence
	Home  string // where the name of the site leads: / or /rooms; empty: there are no pages
}

// NotFound is the notice for addresses that lead nowhere.
var NotFound = Notice{
	Title: "There is nothing here",
	Text:  "A room is named by 1 to 64 letters A to Z, digits, dashes and underscores: /rooms/tea-break.",
}

// Render returns the notice as a page, without scripts. The status is the
// caller's to set.
func (n Notice) Render(a Assets) ([]byte, error) { return execute(a, "notice.tmpl", n) }

// Rooms is the page that lists rooms, and has a field to open any other.
type Rooms struct {
	Busiest []RoomLink // the busiest first
	Home    string     // where the name of the site leads: / or /rooms

	// Asked is what was typed into the field, and Refused says that no room can
	// have that name.
	Asked   string
	Refused bool
}

// RoomLink is a room in a list.
type RoomLink struct {
	Name  string
	Path  string
	Users int // online when the page was made
}

// Render returns the list as a page, without scripts.
func (r Rooms) Render(a Assets) ([]byte, error) { return execute(a, "rooms.tmpl", r) }

// execute renders a page that is not live.
func execute(a Assets, name string, data any) ([]byte, error) {
	t, err := template.New(name).Funcs(funcs(a)).ParseFS(files, "layout.tmpl", name)
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	var page bytes.Buffer
	if err := t.Execute(&page, data); err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	return page.Bytes(), nil
}
