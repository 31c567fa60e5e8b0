package app

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/livetemplate/livetemplate"

	"presence/internal/presence"
	"presence/internal/session"
	"presence/internal/socket"
)

const (
	// socketPatience is how long a socket waits for the shared secret after the
	// start, and pagePatience how long a page does.
	socketPatience = 2 * time.Second
	pagePatience   = time.Second
)

// secret is the session secret that all replicas share. Until it is known nobody
// can be told who they are: cookies that are as good as ever would look forged.
//
// It is asked for with each probe of Redis, and put back when Redis has lost it. Who
// does not know it makes one only after all who do had the time to put it back.
type secret struct {
	cookies *session.Cookies
	shared  bool          // through Redis; else it is known from the start
	known   chan struct{} // closed when it is

	mu        sync.Mutex     // guards:
	strangers []*socket.Conn // sockets of browsers that are not known; some may have ended
	pruned    int            // how many there were when those that had ended were left out
	once      bool
}

func newSecret(cookies *session.Cookies, shared bool) *secret {
	s := &secret{cookies: cookies, shared: shared, known: make(chan struct{})}
	if !shared {
		s.once = true
		close(s.known)
	}
	return s
}

// offer returns the secret to be put into Redis should it have none. late says that
// all who know one had the time to.
func (s *secret) offer(late bool) string {
	if !s.shared || !late && !s.isKnown() {
		return ""
	}
	return s.cookies.Secret()
}

// learn takes over the secret that Redis has. Sockets that were opened before it was
// known are closed, to come back as who they are.
func (s *secret) learn(shared string) {
	if !s.shared {
		return
	}
	if shared != s.cookies.Secret() {
		s.cookies.SetSecret([]byte(shared))
	}
	s.mu.Lock()
	strangers := s.strangers
	s.strangers = nil
	if !s.once {
		s.once = true
		close(s.known)
	}
	s.mu.Unlock()
	for _, c := range strangers {
		_ = c.CloseWith(livetemplate.WSCloseServiceRestart, "known again") // an error: it has gone
	}
}

// session returns the session of the browser that sent r. While the secret is not
// known it waits a moment, and then takes the browser for a stranger, without a
// cookie: the one it has may be good. Nobody can join so: no later request of the
// browser could leave.
func (s *secret) session(w http.ResponseWriter, r *http.Request) (id string, known bool) {
	patience := pagePatience
	if livetemplate.WSIsUpgrade(r) {
		patience = socketPatience
	}
	if !s.await(r.Context(), patience) {
		return session.Stranger(), false
	}
	return s.cookies.Ensure(w, r), true
}

// keys returns how ids are made, or false if that is not known within a moment.
func (a *App) keys(ctx context.Context) (presence.Keys, bool) {
	if !a.secret.await(ctx, pagePatience) {
		return presence.Keys{}, false
	}
	return a.cookies.Keys(), true
}

// isKnown reports whether the secret is known.
func (s *secret) isKnown() bool {
	select {
	case <-s.known:
		return true
	default:
		return false
	}
}

// await reports whether the secret is known, within patience.
func (s *secret) await(ctx context.Context, patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.known:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// opened notes the socket of a browser that was taken for a stranger. It is closed as soon
// as the secret is known, which may be by now.
func (s *secret) opened(c *socket.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.once {
		_ = c.CloseWith(livetemplate.WSCloseServiceRestart, "known again") // an error: it has gone
		return
	}
	if len(s.strangers) >= 2*s.pruned+100 {
		s.strangers = slices.DeleteFunc(s.strangers, (*socket.Conn).Ended)
		s.pruned = len(s.strangers)
	}
	s.strangers = append(s.strangers, c)
}
