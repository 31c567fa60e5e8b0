// Package wire is what we know of livetemplate's frames: the JSON that its server
// and its browser client say to each other over a socket, as v0.25.0 writes it.
//
//   - incoming.go: frames from a browser, judged by a [Filter] and written anew.
//   - outgoing.go: frames from livetemplate, made fit for its client by [Cure].
//   - frame.go: what a frame holds: the slots of a page, its lists and their rows.
package wire
