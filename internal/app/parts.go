package app

import (
	"net"

	"github.com/livetemplate/livetemplate"
	"github.com/redis/go-redis/v9"

	"presence/internal/live"
	"presence/web"
)

// Parts are what a server has from outside of the process. The zero value is the
// real world. A test that runs several servers in one synctest bubble gives them a
// network, a Redis and a page of its own making.
type Parts struct {
	// Listen opens the listener of an address.
	Listen func(address string) (net.Listener, error)

	// Redis is used in place of the one of the settings, and closed in the end.
	Redis redis.UniversalClient

	// Page makes the template of a room: [livetemplate.New], which starts a
	// goroutine that never ends and so can't be called in a bubble.
	Page func(name string, options ...livetemplate.Option) (*livetemplate.Template, error)

	// Assets are what [web.Load] makes anew each time, with much compression.
	Assets *web.Assets

	// Pages are of the template that Page makes, which is examined anew otherwise.
	Pages *live.Pages
}

// orReal fills in what is not given.
func (p Parts) orReal() Parts {
	if p.Listen == nil {
		p.Listen = func(address string) (net.Listener, error) {
			return net.Listen("tcp", address) //nolint:noctx // at start, nothing to cancel
		}
	}
	if p.Page == nil {
		p.Page = livetemplate.New
	}
	return p
}
