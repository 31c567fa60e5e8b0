// Package client calls the API of a presence server: it reads and watches rooms, and puts
// users into them.
//
//   - client.go: a client, and how it sends requests
//   - problem.go: the errors of a server, and their codes
//   - read.go: rooms, members and changes
//   - watch.go: event streams that reconnect by themselves
//   - events.go: the events of streams, and how they are parsed
//   - view.go: the state of a room, kept up to date by its events
//   - present.go: connections, one that renews itself or many by hand
//
// Several goroutines may use a [Client] at a time. Only [Client.Join] starts a goroutine,
// which ends with its [Connection].
//
// The name of a room is 1 to 64 characters of A-Z, a-z, 0-9, _ and -. The id of a user or
// connection is 1 to 128 of these characters and of .:@|+=~.
package client
