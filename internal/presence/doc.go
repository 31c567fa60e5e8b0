// Package presence holds the words of the project: what a room, a user and a
// connection are, which names and ids are legal, and which errors the rest of
// the program decides on. It does no I/O and starts no goroutine.
//
// # The model
//
// A room is a place that people look at and join. A user is a person in a room.
// A connection is one tab or device through which that person is there. A user
// is online while at least one of the user's connections is. The count that
// everybody sees is the number of distinct users; the number of connections is
// available wherever the count is.
//
// A connection holds a lease: an instant, by the clock of Redis and no other,
// until which the connection counts. Heartbeats move that instant forward by the
// member TTL. A connection ends
//
//   - at once, when its user leaves;
//   - after the leave grace, when its socket is gone and its tab did not return;
//   - when its lease runs out, because the replica that renewed it is gone.
//
// A tab that returns to its connection (a refreshed page, a move to another
// replica) takes it over with a new generation. Late messages of an older
// generation, above all that its socket closed, change nothing.
//
// Every visible change of a room raises its version. Versions are microseconds
// by the clock of Redis, raised by at least one, so they keep rising when Redis
// lost its data.
package presence
