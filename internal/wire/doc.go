// Package wire has all that we know about livetemplate's frames: the JSON that its
// server and its browser client send each other over a socket, as v0.25.0 writes it.
//
//   - incoming.go: frames from a browser, which a [Filter] checks and writes anew.
//   - outgoing.go: frames from livetemplate, which [Cure] corrects for its client.
//   - frame.go: what a frame holds: the slots of a page, its lists and their rows.
package wire
