// Package socket carries live pages over WebSocket: it implements livetemplate's
// WSUpgrader and WSConn over gorilla/websocket, and adds what a public server
// needs of them.
//
// # What it does
//
//   - Refuses foreign origins by 403. Beyond a limit of connections, and while
//     draining, it accepts and closes at once (1013, 1012): the browser's client
//     never asks again after an upgrade that was refused by an HTTP error.
//   - Passes on only well-formed frames whose action is allowed, written anew
//     from their three known fields. livetemplate would run Mount, OnConnect and
//     every other exported method for any peer that names them.
//   - Answers the client's own __ping__. When a message is over the limit, a form whose
//     action was refused still gets its answer.
//   - Cures what livetemplate v0.25.0 sends: see [Conn.WriteMessage].
//   - Pings all peers from one ticker, drops the silent and the slow ones, and
//     counts each end of a connection by its reason.
//
// # Who waits for whom
//
// No method that livetemplate calls here waits for a peer. When livetemplate removes a
// connection from its registry, it holds the lock of all connections and waits for
// the writer of that connection. So one peer that stopped reading would stop every
// page of the process. Therefore WriteMessage writes only what the socket takes at once,
// and queues the rest. A goroutine that lives only while frames are queued writes them,
// and each write has a deadline. ReadMessage closes the socket before it returns an
// error, which also ends a write in progress.
//
// The queue holds at most 64 frames or 1 MiB, whichever is reached first. A peer whose
// queue is full is dropped as slow. It reconnects and gets a full page, which costs less
// than all the frames that it missed.
//
// # How a connection ends
//
// The server closes by a close frame, after what was queued before it, and then
// waits up to 2 s for the peer's answer. What the peer sends meanwhile is thrown
// away. The silent and the slow are reset without ceremony. The first reason
// counts, and is one of:
//
//	client        the peer closed, or its end of the socket went away
//	slow          it did not take what was written in time
//	ping_timeout  nothing was heard from it for PingInterval + PongTimeout
//	too_big       its message was longer than MaxMessage (1009)
//	rate          it kept sending more than it may (1008)
//	protocol      binary frames (1003), bad UTF-8 (1007), broken framing (1002)
//	drain         the server restarts (1012, 1001)
//	capacity      too many connections (1013)
//	error         anything else, such as a page that could not be mounted
package socket
