// Package client calls the API of a presence server: it reads who is in rooms, watches
// rooms, and has users be present in them.
//
//   - client.go: a client, and how it sends requests
//   - problem.go: what a server refuses, and why
//   - read.go: rooms, members and changes
//   - watch.go: event streams that go on by themselves
//   - events.go: what event streams tell, and how it is read
//   - view.go: a room as its events tell of it
//   - present.go: connections: one that renews itself, and many by hand
//
// A [Client] may be used by several goroutines at a time. It starts none but those of
// [Client.Join], each of which ends with its [Connection].
//
// Users, rooms and connections are called as the server allows: a room by 1 to 64
// characters of A-Z, a-z, 0-9, _ and -, users and connections by 1 to 128 characters
// that may also be one of .:@|+=~.
package client
