// Package live renders a room once for all open pages: for each change it renders the
// part that all pages share, and sends the difference to all of them as it is.
// livetemplate renders only the visitor's own part.
//
//   - live.go: the pages of all rooms, and their viewers.
//   - board.go: the pages of one room, which are an audience of it, and what each shows.
//   - layout.go: finds out which parts of a page are shared, and which are the visitor's
//     own, from the states that samples.go makes.
package live
