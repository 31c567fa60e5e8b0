// Package redistest gives tests a Redis: an in-memory one that fits into a
// synctest bubble, or a real redis-server on a free port, which the code under
// test enters as the user that is shipped for it, and which must have refused
// that user nothing when the test ends.
//
//   - fake.go: the one in memory, and the network between it and a client
//   - cluster.go: several of those, as the masters of a Cluster
//   - script.go: the scripts of the one in memory
//   - server.go: the real one, plain or over TLS
//   - users.go: who may do what in it
//   - wait.go: what tests of processes need besides
package redistest
