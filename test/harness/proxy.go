package harness

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy is a network between two ends. It passes on what it gets until it is
// told to be silent, as a pulled cable is, or to break.
type Proxy struct {
	URL  string
	Addr string

	target   string
	listener net.Listener
	silent   atomic.Bool
	refuses  atomic.Bool
	group    sync.WaitGroup

	mu    sync.Mutex // guards:
	conns map[net.Conn]bool
	over  bool
}

// NewProxy returns a network to target that ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at the end
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p := &Proxy{
		URL: "http://" + l.Addr().String(), Addr: l.Addr().String(),
		target: target, listener: l, conns: map[net.Conn]bool{},
	}
	p.group.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.over = true
		p.mu.Unlock()
		p.Break()
		p.group.Wait()
	})
	return p
}

// Silence swallows everything in both directions from now on; connections stay
// open, and new ones are accepted and stay silent.
func (p *Proxy) Silence() { p.silent.Store(true) }

// Refuse breaks all connections, and each new one at once.
func (p *Proxy) Refuse() {
	p.refuses.Store(true)
	p.Break()
}

// Restore ends Silence and Refuse. What was swallowed is lost, so connections
// that were silent break.
func (p *Proxy) Restore() {
	p.refuses.Store(false)
	if p.silent.Swap(false) {
		p.Break()
	}
}

// Break resets all connections.
func (p *Proxy) Break() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *Proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.refuses.Load() {
			_ = near.Close()
			continue
		}
		far, err := net.Dial("tcp", p.target) //nolint:noctx // loopback: at once
		if err != nil {
			_ = near.Close()
			continue
		}
		p.mu.Lock()
		p.conns[near], p.conns[far] = true, true
		over := p.over
		p.mu.Unlock()
		if over {
			p.Break()
			return
		}
		p.group.Go(func() { p.copy(near, far) })
		p.group.Go(func() { p.copy(far, near) })
	}
}

// copy passes on what comes from one end, until either ends.
func (p *Proxy) copy(from, to net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		silent := p.silent.Load()
		if n > 0 && !silent {
			if _, err := to.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			if silent {
				return // the other end does not hear of it either
			}
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range []net.Conn{from, to} {
		_ = c.Close()
		delete(p.conns, c)
	}
}
