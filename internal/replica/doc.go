// Package replica keeps the members who are present through one server process: it
// renews their leases, removes connections whose leases have run out, and knows whether
// Redis can be trusted.
//
// Each loop is one file:
//
//	heartbeat.go  renews the leases of local members, puts back those Redis lost
//	sweep.go      removes connections whose leases ran out, in the rooms of this replica
//	link.go       knows whether a node of Redis answers, and whether it lost its data
//
// The loops work on these:
//
//	links.go      the nodes of Redis: one, or the masters of a Cluster
//	peers.go      the replicas that share the Redis, and the rooms to sweep among them
//	members.go    members: connections that are in a room through a socket here
//	put.go        connections without a socket that were put or renewed here
//	ledger.go     how many members and connections each address has
//	loss.go       rooms that lost their data, each by itself
//	trouble.go    rooms whose data are damaged, each by itself
//
// # What happens when things go wrong
//
// Redis is away: rooms keep their last view, marked stale. Joins fail in time. When Redis
// answers again, the replica renews all leases at once and puts back the members that
// Redis lost. Then it waits until the other replicas had the time to do the same (the
// settle time), before it reads rooms and sweeps leases again. So nobody sees a count that
// is half restored, and nobody is removed because a heartbeat could not be sent.
//
// Redis lost its data without going away: its epoch is gone or another one. The same
// follows.
//
// Redis lost the data of one room: the room has another birth. The same follows for that
// room alone.
//
// The keys of a room do not fit together, as a read, a heartbeat or a sweep finds. The
// replica deletes the room's data, and tells the other replicas by its next announcement.
// After that the room has lost its data, as above.
//
// All of that is about one node of Redis. In a Cluster the rooms of other masters are not
// affected, and a slot that moves from one master to another is no loss.
//
// This process was stopped for a while and continues: the same follows. Members that moved
// to other replicas meanwhile have newer generations and are left alone. The replica pings a
// browser before it puts the browser's member back.
//
// Another replica is killed: the leases of its members run out, and are swept. Each room
// belongs to one of the living replicas, which sweeps it; any other sweeps it if that one is
// late by half a second. There is no leader, and a second sweep finds nothing.
package replica
