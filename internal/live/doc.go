// Package live is one rendering for all open pages of a room: what they show of it is
// rendered once for each change, and what has changed is sent to all as it is.
// livetemplate renders only what is a visitor's own.
//
//   - live.go: the pages of all rooms, and their viewers.
//   - board.go: the pages of one room, which are an audience of it, and what each shows.
//   - layout.go: which parts of a page are shared, and which are the visitor's own;
//     samples.go makes the states from which that is found out.
package live
