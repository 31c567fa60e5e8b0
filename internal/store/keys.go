package store

import "strings"

// keys builds the names of all keys and channels. No other code does.
type keys struct{ prefix string }

func (k keys) online(room string) string  { return k.of(room) + ":online" }
func (k keys) beats(room string) string   { return k.of(room) + ":beats" }
func (k keys) conns(room string) string   { return k.of(room) + ":conns" }
func (k keys) refs(room string) string    { return k.of(room) + ":refs" }
func (k keys) users(room string) string   { return k.of(room) + ":users" }
func (k keys) roster(room string) string  { return k.of(room) + ":roster" }
func (k keys) version(room string) string { return k.of(room) + ":version" }
func (k keys) log(room string) string     { return k.of(room) + ":log" }
func (k keys) removed(room string) string { return k.of(room) + ":removed" }

// channel is where the changes of room are published.
func (k keys) channel(room string) string { return k.of(room) }

// probe is a channel on the same Redis node as room's channel. On it one listener
// receives its own messages.
func (k keys) probe(room, listener string) string { return k.of(room) + ":probe:" + listener }

func (k keys) rooms() string  { return k.prefix + ":rooms" }
func (k keys) secret() string { return k.prefix + ":secret" }
func (k keys) schema() string { return k.prefix + ":schema" }

// epoch shows whether a node still has its data. tag is "" for a single server; in a
// Cluster it is a hash tag of the node, which is not a room's.
func (k keys) epoch(tag string) string {
	if tag == "" {
		return k.prefix + ":epoch"
	}
	return k.of("@"+tag) + ":epoch"
}

// indexTag is the hash tag of the index.
const indexTag = "@"

// index lists the keys of the index of rooms, in the order in which scripts expect them.
// They share a slot, and their tag is not a room's.
func (k keys) index() []string {
	return []string{k.of(indexTag) + ":numbers", k.of(indexTag) + ":names", k.of(indexTag) + ":busy"}
}

// replicas is where replicas announce themselves. It is in the slot of the index.
func (k keys) replicas() string { return k.of(indexTag) + ":replicas" }

func (k keys) of(room string) string { return k.prefix + ":{" + room + "}" }

// room lists all keys of a room in the order in which scripts expect them.
func (k keys) room(room string) []string {
	return []string{
		k.online(room), k.beats(room), k.conns(room), k.refs(room),
		k.users(room), k.roster(room), k.version(room), k.log(room),
	}
}

// roomOf returns the room of a channel, and whether the channel is a room's.
func (k keys) roomOf(channel string) (string, bool) {
	rest, ok := strings.CutPrefix(channel, k.prefix+":{")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, "}")
}
