// Package room is what one replica knows of the rooms that somebody here looks at:
// for each a view, which is read from the store once for all who look, and the
// audiences that it is shown to.
//
//   - rooms.go: who looks at which room, and what they see
//   - refresh.go: reads rooms that changed, and notices that one has lost its data
//   - audience.go: shows each audience what is new, at the pace that it can take
//
// A message of the store says that a room has changed. The room is then read: the
// changes since the version that is known, or the whole room where they do not lead
// on. A message that is lost costs a delay: every room is read from time to time.
//
// What was read may be shown while the store can be trusted, which is not this
// package's to decide; see [Trust]. Until then the last view stays, marked stale.
package room
