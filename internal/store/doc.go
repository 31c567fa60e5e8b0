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
//	prefix:{R}:conns     HASH    connection -> generation and user id
//	prefix:{R}:refs      HASH    user id -> number of connections, only where there are several
//	prefix:{R}:users     HASH    user id -> since when, name, and metadata if there are any
//	prefix:{R}:version   string  version of the room, and its birth
//	prefix:{R}:roster    ZSET    user id -> since when, 256 at most
//	prefix:{R}:log       STREAM  what changed, an entry for each version
//	prefix:{R}:removed   ZSET    user id -> version at which the user was removed, for ten minutes
//	prefix:rooms         ZSET    rooms in use -> when last registered, ms by Redis TIME
//	prefix:epoch         string  when it was made, ms by Redis TIME, and random text; made anew when Redis lost its data
//	prefix:secret        string  the key of session cookies and ids, where no file gives one
//	prefix:{@}:numbers, :names, :busy  HASH, ZSET, ZSET  index of rooms with somebody in them
//	prefix:{R}           pub/sub changes of the room, as JSON: version, users, connections, names
//
// The keys of a room live for four times the member TTL or the leave grace, whichever
// is longer, after the last change or heartbeat: an abandoned room vanishes by itself,
// and none before its last lease has run out.
//
// # A full Redis
//
// A Redis that has no memory left refuses the first write of a script if that may need
// some, and none after it. So every script begins with a write that needs none, except
// those by which somebody new comes: a join, and a new room.
//
// # Time
//
// TIME, read inside the scripts, is the only clock. Replicas may disagree about
// the time of day as they like.
//
// # Changes
//
// Each kind of change is one script, takes many connections at once, and
// publishes what it did before it ends: the order of messages is the order of
// versions, and a user's leave is decided by the very call that removes the last
// connection. All scripts may be repeated: a join that took place already is a
// renewal, a leave that did finds nobody.
//
// Messages are hints. Whoever gets one reads the room again; whoever misses one
// is put right by reading the room from time to time.
package store
