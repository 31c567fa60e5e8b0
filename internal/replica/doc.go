// Package replica is what one server process does for the people connected to
// it: it renews their leases, removes those whom nobody renews any more, and
// keeps a copy of every room that somebody here looks at.
//
// Each loop is one file:
//
//	heartbeat.go  renews the leases of local members, puts back those Redis lost
//	sweep.go      removes connections of every room whose leases ran out
//	refresh.go    reads rooms that changed
//	tell.go       tells those who look at them, each room by itself
//	link.go       knows whether Redis answers, and whether it lost its data
//
// members.go and rooms.go hold what the loops work on.
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
// same follows.
//
// This process was stopped for a while and continues: the same follows. Those
// of its members that moved to other replicas meanwhile have newer generations
// and are left alone; whoever is to be put back is asked for a sign of life first.
//
// Another replica is killed: its members' leases run out, and whichever replica
// sweeps first removes them. There is no leader; a doubled sweep finds nothing.
package replica
