// Package room holds the rooms that have viewers at this replica. Each room has a view,
// which is read from the store once for all viewers, and the audiences that see it.
//
//   - rooms.go: the rooms, their viewers and views
//   - refresh.go: reads rooms that changed, and notices that one has lost its data
//   - audience.go: shows each audience new views, at the pace that it can take
//   - ask.go, since.go: answers to single questions of the API, also about rooms that have
//     no viewers here
//
// A message of the store says that a room has changed. Then the replica reads the changes
// since the version of its view, or the whole room if they do not continue from there. A
// lost message only causes a delay, since every room is read from time to time.
//
// A view may be shown while the store can be trusted, which [Trust] decides. Otherwise the
// last view stays, marked stale.
package room
