// Package controller is the live page of a room: the livetemplate controller
// with its actions (controller.go), and its visits (visit.go). [live.Pages] shows the
// parts of a page that are the same for all visitors.
//
// A visit is one request: a socket for as long as it is open, or a page load or
// form post without one. It knows which browser and which tab it is from, and
// so which connection of the room it speaks for. [Controller.Handler] begins a
// visit before livetemplate sees the request and ends it when livetemplate is
// done with it, which for a socket is when it has closed and the last action
// has ended; that is the end of a connection that livetemplate itself does not
// tell a controller about. A socket outlives its request.
package controller
