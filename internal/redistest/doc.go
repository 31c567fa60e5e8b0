// Package redistest gives tests a Redis: one in memory that fits into a synctest
// bubble, or a real redis-server on a free port. The code under test logs in to the
// real one as the user of deploy/redis/users.acl. The test fails if Redis refused a
// command of that user.
//
//   - fake.go: the Redis in memory, and the network between it and a client
//   - cluster.go: several of these, as the masters of a Cluster
//   - script.go: runs Lua scripts for the Redis in memory
//   - server.go, tls.go: the real Redis, plain or over TLS
//   - clock.go: a clock of the real Redis that tests can step
//   - users.go: the users of the real Redis
//   - wait.go: programs, ports, and waiting for a condition
package redistest
