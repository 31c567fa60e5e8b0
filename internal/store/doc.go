// Package store keeps who is online in Redis. It is the only package that talks
// to Redis and the only one that knows a key.
//
// # Keys
//
// All keys of a room R share the hash tag {R}, so that they lie in one slot of a
// Redis Cluster and one script can change them together. prefix is "presence"
// unless set otherwise.
//
//	key                  type    holds
//	prefix:{R}:online    SET     ids of the users online; its size is the count
//	prefix:{R}:beats     ZSET    connection and generation -> end of its lease, ms by Redis TIME
//	prefix:{R}:conns     HASH    connection -> generation and user id, "<gen4><user>"
//	prefix:{R}:refs      HASH    user id -> number of connections, only where there are several
//	prefix:{R}:users     HASH    user id -> since when, name, metadata: "<since> <name>[\n<meta>]"; of a guest <meta> begins with a blank
//	prefix:{R}:roster    ZSET    user id -> since when; all of a room of up to 256 users
//	prefix:{R}:version   string  version and birth of the room, "<version> <birth>", and of a repaired one " <time>"
//	prefix:{R}:log       STREAM  what changed, an entry a version; see below
//	prefix:{R}:removed   ZSET    user id -> version at which the user was removed, for ten minutes
//	prefix:rooms         ZSET    rooms in use -> when last registered, ms by Redis TIME
//	prefix:{@}:numbers   HASH    index: room -> "<version> <users> <connections>", rooms with users only
//	prefix:{@}:names     ZSET    the same rooms by name; prefix:{@}:busy, by users
//	prefix:{@}:replicas  HASH    replica -> when it was last heard of, whether it sweeps, and what it says of itself
//	prefix:schema        string  number of this layout of keys
//	prefix:epoch         string  when it was made, ms by Redis TIME, and random text; made anew when Redis lost its data
//	prefix:{@N}:epoch    string  the same of one node of a Cluster: N is a number whose slot the node serves
//	prefix:secret        string  the key of session cookies and ids, where no file gives one
//	prefix:{R}           pub/sub changes of the room, as JSON: version, users, connections, names
//
// The birth of a room is the time at which its data began, in microseconds. Where they began
// anew since they were damaged, it is followed by the time by which all replicas will have put
// back the connections they hold. Until then nobody can read the room. The first renewal or
// change after that removes this time, so that a clock which is stepped back can't show it again.
//
// The keys of a room live for four times the member TTL or the leave grace, whichever
// is longer, after the last change or heartbeat. So an abandoned room vanishes by itself,
// but not before its last lease has run out.
//
// # A full Redis
//
// A Redis that has no memory left refuses the first write of a script if that may need
// memory, and no later write. So every script begins with a write that needs none, except
// the scripts that let somebody new in: a join, and a new room.
//
// # Order
//
// The time since which a user is there is in microseconds since the epoch by Redis TIME. No
// two users of a room have the same, so it orders the roster.
//
// # The log
//
// An entry has the id <version>-0 and the fields
//
//	p   the version before
//	u c users and connections after
//	m   1: not all users who changed are named; the whole room has to be read
//	+   a user who came, "<user> <connections> <value of users>"
//	~   a user whose name, metadata or number of connections changed, likewise
//	-   a user who left, "<user> <reason>"; see [presence.Reason]
//
// It holds about 256 entries and 256 KiB, and expires 2 minutes after the last.
//
// # Time
//
// TIME, read inside the scripts, is the only clock. The clocks of replicas may be
// wrong.
//
// # Changes
//
// Each kind of change is one script. It takes many connections at once, and publishes
// what it did before it ends. So the order of messages is the order of versions, and the
// call that removes a user's last connection decides that the user leaves. All scripts
// may be repeated: a repeated join is a renewal, and a repeated leave finds nobody.
//
// Messages are hints. A replica that gets one reads what changed. Replicas also read
// each room from time to time, in case they missed a message.
package store
