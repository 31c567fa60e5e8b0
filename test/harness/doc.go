// Package harness gives tests the world around a replica: people with browsers,
// Redis in its several shapes, a balancer, and networks that fail.
//
//   - replica.go: a server process, started, killed, stopped, paused
//   - follower.go: a program that follows a room by its event stream, and calls the API
//   - visitor.go: a person with the page open, who speaks the browser's protocol
//   - sight.go: what somebody reads off a page
//   - redis.go: Redis by Sentinel, in a Cluster, behind an ACL; failovers
//   - haproxy.go: the balancer, with the configuration that is shipped
//   - proxy.go: a network between two ends, that can go silent or break
//   - observe.go, usage.go: watching for a while; what a server takes
//
// Nothing here knows the server's code: what a Visitor reports is what a person
// would have read on the screen. Everything listens on the loopback interface
// and ends with its test.
package harness
