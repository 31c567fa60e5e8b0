package store

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"presence/internal/presence"
)

// The value of a user in Redis and in the log is "<since> <name>". If there are metadata,
// a line feed and the metadata follow. Neither contains a line feed. The metadata of a
// guest begin with a blank, and may be {}. A replica of a version that does not know
// guests reads them as the same JSON.
const (
	guestMark = " "
	noMeta    = "{}"
)

// tail returns the value of a user without the time.
func tail(u presence.User) string {
	if meta := metaOf(u); meta != "" {
		return u.Name + "\n" + meta
	}
	return u.Name
}

// metaOf returns the metadata of a user as they are stored.
func metaOf(u presence.User) string {
	if u.Guest {
		return guestMark + cmp.Or(u.Meta, noMeta)
	}
	return u.Meta
}

// valueOf returns the value of a user who is present.
func valueOf(u presence.User) string { return strconv.FormatInt(u.Since, 10) + " " + tail(u) }

// parseUser reads the value of the user id.
func parseUser(id, value string) (presence.User, error) {
	since, rest, ok := strings.Cut(value, " ")
	at, err := strconv.ParseInt(since, 10, 64)
	if !ok || err != nil || id == "" {
		return presence.User{}, damaged(fmt.Errorf("%w: user %q is %q", errReply, id, value))
	}
	name, meta, _ := strings.Cut(rest, "\n")
	meta, guest := strings.CutPrefix(meta, guestMark)
	if guest && meta == noMeta {
		meta = ""
	}
	return presence.User{ID: id, Name: name, Meta: meta, Guest: guest, Since: at}, nil
}

// parseMember reads "<user> <connections> <value>", a member in the log.
func parseMember(text string) (presence.Member, error) {
	id, rest, _ := strings.Cut(text, " ")
	count, value, ok := strings.Cut(rest, " ")
	n, err := strconv.Atoi(count)
	if !ok || err != nil {
		return presence.Member{}, damaged(fmt.Errorf("%w: member %q", errReply, text))
	}
	user, err := parseUser(id, value)
	return presence.Member{User: user, Connections: n}, err
}

// parseEntry reads an entry of the log: {id, {field, value, ...}}.
func parseEntry(entry *reply) (presence.Change, error) {
	id, fields := entry.text(), entry.list()
	var c presence.Change
	version, _, _ := strings.Cut(id, "-")
	numbers := []struct {
		text string
		to   *int64
	}{{version, &c.Version}, {"", &c.Prev}}
	var users, connections int64
	for fields.more() {
		field, value := fields.text(), fields.text()
		var m presence.Member
		var err error
		switch field {
		case "p":
			numbers[1].text = value
		case "u":
			users, err = strconv.ParseInt(value, 10, 64)
		case "c":
			connections, err = strconv.ParseInt(value, 10, 64)
		case "m":
			c.Unnamed = true
		case "+":
			m, err = parseMember(value)
			c.Joined = append(c.Joined, m)
		case "~":
			m, err = parseMember(value)
			c.Updated = append(c.Updated, m)
		case "-":
			user, reason, ok := strings.Cut(value, " ")
			if !ok {
				err = errReply
			}
			c.Left = append(c.Left, presence.Left{User: user, Reason: presence.Reason(reason)})
		default: // of a later version of this server
		}
		if err != nil {
			return c, damaged(fmt.Errorf("log entry %s: %s %q: %w", id, field, value, err))
		}
	}
	for _, n := range numbers {
		var err error
		if *n.to, err = strconv.ParseInt(n.text, 10, 64); err != nil {
			return c, damaged(fmt.Errorf("log entry %s: %w", id, err))
		}
	}
	c.Users, c.Connections = int(users), int(connections)
	if entry.err != nil {
		return c, entry.err
	}
	return c, fields.err
}
