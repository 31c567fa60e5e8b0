// Package stream tells programs what happens in rooms, by server-sent events: who is
// there, then every change, over a connection that stays open.
//
//   - streams.go: all streams of a replica: how one is opened, keepalives, the end
//   - feed.go: the streams of one kind of one room, an audience of the room
//   - event.go: events as text
//   - stream.go: one stream: its connection, and what is written to it
//   - join.go: streams that are somebody's presence
//
// # What a stream costs
//
// An event is encoded once for all streams of a room that are told the same, and is
// written to each by one attempt that does not block: no stream waits for another, and
// no goroutine wakes. A stream is taken from net/http, so that neither its request nor
// its buffers stay. It has one goroutine, which waits for the peer to close.
//
// A peer that does not read fast enough has an event half written some day. Then a
// goroutine finishes that event. What comes meanwhile is dropped, and after that the
// stream is told the whole room anew. One that takes nothing for 30 s is cut.
//
// # Where a stream stands
//
// A stream stands at the version of the room that it was told last. A change that leads
// from there is told as it is. Where none does, since the stream is new, was resumed at
// a version that is not known here yet, or has missed something, the log of the room is
// asked for the changes, or the whole room is told.
package stream
