// Package harness gives tests the world around a replica: people with browsers,
// Redis in its several shapes, a balancer, and networks that fail.
//
//   - replica.go: a server process, which tests start, kill, stop and pause
//   - follower.go: a program that follows a room by its event stream, and calls the API
//   - visitor.go: a person with an open page, in a tab that is opened, reloaded and closed
//   - load.go: the requests for the page, and its forms without JavaScript
//   - connection.go: the page's sockets, one after another, and how it reconnects
//   - frame.go: how a frame of the server changes the page
//   - press.go: the buttons, and their answers
//   - rejoin.go: how a page joins again by itself
//   - sight.go: what a person reads on a page
//   - history.go: all that a page has shown, and waiting until it shows something
//   - crowd.go: many visitors at once
//   - redis.go: Redis by Sentinel, in a Cluster, behind an ACL; failovers
//   - haproxy.go: the balancer, with the configuration of deploy
//   - proxy.go: a network between two ends, which can go silent or break
//   - observe.go: watching for a while
//   - usage.go: processor time and memory of a server
//
// Nothing here knows the server's code: a Visitor reports what a person would have
// read on the screen. Everything listens on the loopback interface and ends with its
// test.
package harness
