package harness

import (
	"html"
	"strconv"
	"strings"
)

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
