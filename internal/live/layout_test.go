package live_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/livetemplate/livetemplate"

	"presence/internal/live"
	"presence/internal/room"
)

// small is the state of a small page. It has the fewest fields that a state can have.
type small struct {
	Known  bool      `live:"shared"`
	Users  int       `live:"shared"`
	More   int       `live:"shared"`
	Roster []nameRow `live:"shared"`
	Name   string    `live:"own"`
	ID     string    `live:"own"`
	Joined bool      `live:"own"`
	Links  []link    `live:"own"`
}

type nameRow struct {
	ID   string `live:"id"`
	Name string `live:"shared"`
	Own  bool   `live:"mark"`
}

type link struct {
	Path string
	Here bool
}

func smallState(view room.View) any {
	s := small{Known: !view.AsOf.IsZero(), Users: view.Users, More: view.Users - len(view.Roster())}
	for _, user := range view.Roster() {
		s.Roster = append(s.Roster, nameRow{ID: user.ID, Name: user.Name})
	}
	return s
}

// The small page in parts, which tests replace.
const (
	header    = `<header>{{if .Known}}{{.Users}} online{{else}}–{{end}}</header>`
	own       = `<form>{{if .Joined}}{{.Name}}{{else}}{{.lvt.Flash "notice"}}{{end}}</form>`
	row       = `<li data-key="{{.ID}}">{{.Name}}{{if .Own}} <b>you</b>{{end}}</li>`
	roster    = `<div>{{if .Roster}}<ul>{{range .Roster}}` + row + `{{end}}</ul>{{else}}<p>Nobody</p>{{end}}</div>`
	links     = `<nav>{{if .Links}}<ul>{{range .Links}}<li>{{.Path}}</li>{{end}}</ul>{{end}}</nav>`
	wholePage = header + own + roster + links
)

// newPages returns the pages of a template.
func newPages(t *testing.T, text string, state func(room.View) any) error {
	t.Helper()
	files := fstest.MapFS{"page.tmpl": {Data: []byte("<!DOCTYPE html><html><body><div>" + text + "</div></body></html>")}}
	template, err := livetemplate.New("page", livetemplate.WithParseFS(files, "page.tmpl"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = live.New(template, live.Options{State: state, Messages: []string{"notice"}})
	return err
}

// A template is refused at the start if a slot would show visitors something that is not
// theirs, or show them all nothing. The message names what is wrong.
func TestTemplatesThatDoNotKeepApartAreRefused(t *testing.T) {
	if err := newPages(t, wholePage, smallState); err != nil {
		t.Fatal(err)
	}
	ownRow := strings.Replace(roster, `{{if .Own}} <b>you</b>{{end}}`, `{{if eq .ID $.ID}} <b>you</b>{{end}}`, 1)
	for name, c := range map[string]struct {
		part, by string
		want     []string
	}{
		"the own name in the shared header":    {header, `<header>{{if .Known}}{{.Users}} online, {{.Name}}{{end}}</header>`, []string{"<header>", "Known", "Name"}},
		"the own name where nothing is known":  {header, header + `<i>{{if .Known}}{{else}}{{.Name}}{{end}}</i>`, []string{"Known", "Name"}},
		"the own name where many are":          {header, header + `<i>{{if .Known}}{{if gt .More 1}}{{.Name}}{{end}}{{end}}</i>`, []string{"Known", "Name"}},
		"the own id within a row":              {roster, ownRow, []string{"Roster", "ID"}},
		"the own name within a row":            {roster, strings.Replace(ownRow, ".ID $.ID", ".Name $.Name", 1), []string{"Roster", "Name"}},
		"the own name in each row":             {roster, strings.Replace(roster, "<b>you</b>", "<b>{{$.Name}}</b>", 1), []string{"Roster", "Name"}},
		"joined around the roster":             {roster, `<div>{{if .Joined}}` + roster + `{{end}}</div>`, []string{"Roster", "Joined"}},
		"the roster around the form":           {own, `<div>{{if .Roster}}` + own + `{{end}}</div>`, []string{"Roster", "Joined"}},
		"a flash in a shared slot":             {header, `<header>{{if .Known}}{{.Users}} online{{else}}{{.lvt.Flash "notice"}}{{end}}</header>`, []string{"Known", `flash "notice"`}},
		"any flash in a shared slot":           {header, header + `<i>{{if .lvt.HasAnyFlash}}{{.More}}{{end}}</i>`, []string{"More", `flash "notice"`}},
		"any error in a shared slot":           {header, header + `<i>{{if .lvt.HasAnyError}}{{.More}}{{end}}</i>`, []string{"More", `error "notice"`}},
		"a slot that depends on both":          {header, header + `<i>{{if and .Joined .More}}x{{end}}</i>`, []string{"More", "Joined"}},
		"the number of users in the own links": {links, strings.Replace(links, "{{.Path}}", "{{.Path}}{{if .Here}} {{$.Users}}{{end}}", 1), []string{"Users", "Links"}},
		"the name of one's own row":            {roster, strings.Replace(roster, "<b>you</b>", "<b>{{.Name}}, you</b>", 1), []string{"mark"}},
		"two marks in a row":                   {roster, strings.Replace(roster, "<li ", `<li class="{{if .Own}}own{{end}}" `, 1), []string{"mark"}},
		"a mark before the id":                 {roster, strings.Replace(roster, row, `<li class="{{if .Own}}own{{end}}" data-key="{{.ID}}">{{.Name}}</li>`, 1), []string{"after it"}},
		"a mark on all other rows":             {roster, strings.Replace(roster, "{{if .Own}}", "{{if not .Own}}", 1), []string{"empty"}},
		"the own row once more":                {roster, roster + `<p>{{range .Roster}}{{if .Own}}{{.Name}}{{end}}{{end}}</p>`, []string{"mark"}},
		"rows without a mark":                  {roster, strings.Replace(roster, "{{if .Own}} <b>you</b>{{end}}", "", 1), []string{"own"}},
		"rows without an id":                   {roster, strings.Replace(roster, "{{.ID}}", "{{.Name}}", 1), []string{"id"}},
		"no number of users":                   {header, ``, []string{"number of users"}},
		"the number of users among others":     {header, `<header>{{if .Known}}{{.Users}} online, {{.More}} more{{end}}</header>`, []string{"number of users"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := newPages(t, strings.Replace(wholePage, c.part, c.by, 1), smallState)
			if err == nil {
				t.Fatal("it is accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %s", err, want)
				}
			}
		})
	}
}

func TestTemplatesThatKeepApartAreAccepted(t *testing.T) {
	for name, c := range map[string]struct{ part, by string }{
		"the number of users twice":           {header, header + `<i>{{.Users}}</i>`},
		"the number of users with others too": {header, header + `<i>{{.Users}} online, {{.More}} more</i>`},
		"slots of both side by side":          {header, header + `<i title="{{.Name}}">{{.More}}</i>`},
		"a slot of two shared":                {header, header + `<i>{{if .Known}}{{.More}}{{end}}</i>`},
		"a slot of two own":                   {header, header + `<i>{{if .Links}}{{.Name}}{{end}}</i>`},
	} {
		if err := newPages(t, strings.Replace(wholePage, c.part, c.by, 1), smallState); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every field of the state has a tag. Otherwise a new field could be shown empty some
// day.
func TestFieldsOfTheStateSayWhoseTheyAre(t *testing.T) {
	for name, c := range map[string]struct {
		state any
		want  []string
	}{
		"a field without a tag": {struct {
			small

			Topic string
		}{}, []string{"small", "exported"}},
		"another": {struct {
			Roster []nameRow `live:"shared"`
			Topic  string
		}{}, []string{"field Topic", `live:"shared"`, `live:"own"`}},
		"a tag misspelt": {struct {
			Topic string `live:"share"`
		}{}, []string{"field Topic", `live:"shared"`}},
		"a row's field without a tag": {struct {
			Roster []struct {
				ID   string `live:"id"`
				Own  bool   `live:"mark"`
				Icon string
			} `live:"shared"`
		}{}, []string{"field Roster", "Icon"}},
		"a mark that is no bool": {struct {
			Roster []struct {
				ID  string `live:"id"`
				Own string `live:"mark"`
			} `live:"shared"`
		}{}, []string{"field Roster", "Own", "bool"}},
		"rows without an id": {struct {
			Roster []struct {
				Own bool `live:"mark"`
			} `live:"shared"`
		}{}, []string{"field Roster", `live:"id"`}},
		"no roster": {struct {
			Users int `live:"shared"`
		}{}, []string{"list"}},
		"a field that can't be varied": {struct {
			Roster []nameRow `live:"shared"`
			Done   chan int  `live:"own"`
		}{}, []string{"field Done", "chan int"}},
		"no struct": {map[string]int{}, []string{"struct"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := newPages(t, `<p>x</p>`, func(room.View) any { return c.state })
			if err == nil {
				t.Fatal("it is accepted")
			}
			if missing := slices.DeleteFunc(c.want, func(want string) bool { return strings.Contains(err.Error(), want) }); len(missing) > 0 {
				t.Errorf("%q does not say %q", err, missing)
			}
		})
	}
}
