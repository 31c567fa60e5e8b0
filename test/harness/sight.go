package harness

import (
	"fmt"
	"html"
	"strconv"
	"strings"
	"time"
)

// Sight is what a visitor could read on the screen at one instant.
type Sight struct {
	At time.Time

	// Socket tells a live page from one that was loaded or posted.
	Socket bool

	// Users is the count; it means nothing unless Known, when the page shows a
	// dash. Stale is the mark that the count may be out of date.
	Users int
	Known bool
	Stale bool

	// Joined and Name: whether the page says that the visitor is logged in, and
	// as whom.
	Joined bool
	Name   string

	// Notice, NameError and Typed are what the page says when something did not
	// happen, and what it kept in the field.
	Notice    string
	NameError string
	Typed     string

	// Replica is the replica that served the page.
	Replica string

	// Names are those of the roster in their order, a line each, for visitors
	// with Options.Names.
	Names string
}

// same reports whether a person would see no difference between two sights.
func (s Sight) same(other Sight) bool {
	s.At, other.At = time.Time{}, time.Time{}
	return s == other
}

// String is for failures.
func (s Sight) String() string {
	text := s.At.Format("05.000") + ": "
	if s.Known {
		text += fmt.Sprint(s.Users)
	} else {
		text += "–"
	}
	if s.Stale {
		text += " stale"
	}
	if s.Joined {
		text += " joined as " + s.Name
	}
	if !s.Socket {
		text += " (no socket)"
	}
	if s.Notice != "" {
		text += fmt.Sprintf(" %q", s.Notice)
	}
	return text + " by " + s.Replica
}

// readSight reads a page as a person does.
func readSight(page string) Sight {
	var s Sight
	_, mark, _ := strings.Cut(page, "<mark")
	if users, _, ok := strings.Cut(between(mark, ">", "</mark>"), " user(s) online"); ok {
		n, err := strconv.Atoi(strings.TrimSpace(users))
		s.Users, s.Known = n, err == nil
	}
	text := func(from, to string) string { return html.UnescapeString(between(page, from, to)) }
	s.Joined = text(`data-joined="`, `"`) == "true"
	s.Stale = text(`data-stale="`, `"`) == "true"
	s.Name = text(`data-name="`, `"`)
	s.Replica = text("Served by <code>", "</code>")
	s.Notice = text(`class="alert" role="alert">`, "</p>")
	s.NameError = text(`id="username-error" role="alert">`, "</p>")
	s.Typed = html.UnescapeString(between(between(page, `<input id="username"`, ">"), ` value="`, `"`))
	return s
}

// readRoster reads the names of the roster, in their order.
func readRoster(page string) []string {
	names := []string{}
	for {
		_, rest, ok := strings.Cut(page, `<li class="person" data-key="`)
		if !ok {
			return names
		}
		names = append(names, html.UnescapeString(between(rest, `<span class="name">`, "</span>")))
		page = rest
	}
}

// between is what stands between the first from and the next to in s, or "".
func between(s, from, to string) string {
	_, after, _ := strings.Cut(s, from)
	inner, _, ok := strings.Cut(after, to)
	if !ok {
		return ""
	}
	return inner
}
