package harness

import (
	"math/rand/v2"
	"time"
)

// rejoin joins again if the page was joined and the server does not know it any more. After
// a refusal it asks again, less and less often. web/src/page.js does the same.
func (v *Visitor) rejoin() {
	v.mu.Lock()
	now := v.nowLocked()
	if now.Stale {
		v.rejoinAtOnceLocked()
	}
	conn, name := v.conn, v.remember
	if now.Joined || now.Stale || v.asked || name == "" || !v.live {
		v.mu.Unlock()
		return
	}
	v.asked = true
	wait := min(time.Minute, 3*time.Second<<min(v.refusals, 10))
	v.refusals++
	v.retry = time.AfterFunc(wait+rand.N(wait/2), func() {
		v.mu.Lock()
		if v.conn == conn {
			v.asked = false
		}
		v.mu.Unlock()
		v.rejoin()
	})
	v.mu.Unlock()
	_ = v.send(conn, press("join", name)) // an error ends the socket
}

// rejoinAtOnceLocked lets the next rejoin ask without a wait.
func (v *Visitor) rejoinAtOnceLocked() {
	if v.retry != nil {
		v.retry.Stop()
	}
	v.asked = false
}
