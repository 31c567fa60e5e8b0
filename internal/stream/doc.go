// Package stream sends programs the events of rooms (server-sent events): the members,
// then every change, over a connection that stays open.
//
//   - streams.go: all streams of a replica: how one is opened, keepalives, the end
//   - feed.go: the streams of one kind of one room, an audience of the room
//   - event.go: events as text
//   - stream.go: one stream: its connection, and what is written to it
//   - join.go: streams that join a user
//
// # What a stream costs
//
// An event is encoded once for all streams of a room that get the same event, and is
// written to each by one attempt that does not block: no stream waits for another, and
// no goroutine wakes. The connection is taken from net/http, so that neither the request
// nor its buffers stay. A stream has one goroutine, which waits for the peer to close.
//
// When a peer does not read fast enough, a part of an event can't be written at once. Then
// a goroutine writes the rest. One more event waits meanwhile. Later ones are dropped, and
// after that the stream gets the whole room. A stream whose peer takes nothing for 30 s is cut.
//
// # Where a stream stands
//
// A stream stands at the version of the last event it was sent. A change that begins at
// this version is sent as it is. There may be no such change: the stream is new, was
// resumed at a version that this replica does not know yet, or has missed events. Then the
// changes are read from the room's log, or the whole room is sent.
package stream
