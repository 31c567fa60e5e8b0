// Package nonblock writes to sockets without waiting for their peers: one goroutine sends
// something to thousands of them.
package nonblock
