// Package replica is what one server process does for the people who are present
// through it: it renews their leases, removes members whose leases have run out, and
// knows whether Redis can be trusted.
//
// Each loop is one file:
//
//	heartbeat.go  renews the leases of local members, puts back those Redis lost
//	sweep.go      removes connections whose leases ran out, in the rooms of this replica
//	link.go       knows whether a node of Redis answers, and whether it lost its data
//
// What the loops work on:
//
//	links.go      the nodes of Redis: one, or the masters of a Cluster
//	peers.go      the replicas that share the Redis, and the rooms to sweep among them
//	members.go    members: connections that are in a room through a socket here
//	put.go        connections without a socket that were put or renewed here
//	ledger.go     how many of both each address has
//	loss.go       rooms that lost their data, each by itself
//	trouble.go    rooms whose data are damaged, each by itself
//
// # What happens when things go wrong
//
// Redis is away: rooms keep what was read last, marked stale. Joins fail in
// time. When Redis answers again, all leases are renewed at once, whatever it
// lost is put back, and only after the other replicas had the time to do the
// same (the settle time) are rooms read and leases swept again. So nobody sees
// a count that is half restored, and nobody is removed for a heartbeat that
// could not be sent.
//
// Redis lost its data without going away: its epoch is gone or another; the
// same follows. It lost the data of one room: the room's birth is another; the same
// follows for that room alone. The keys of a room do not fit together, which a read, a
// heartbeat or a sweep finds: its data are deleted, the other replicas learn it from the
// next announcement, and the room has lost its data.
//
// All of that is about one node of Redis. In a Cluster the rooms of other masters go on, and
// a slot that moves from one to another is no loss.
//
// This process was stopped for a while and continues: the same follows. Members that
// moved to other replicas meanwhile have newer generations and are left alone; a browser
// is pinged before its member is put back.
//
// Another replica is killed: its members' leases run out, and are swept. Each room belongs
// to one of the living replicas, which sweeps it; any other does where that one is late by
// half a second. There is no leader, and a doubled sweep finds nothing.
package replica
