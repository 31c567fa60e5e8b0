package harness

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// transport carries the requests of all visitors, over connections that are
// kept, as browsers keep theirs.
var transport = &http.Transport{
	MaxIdleConnsPerHost: 64,
	IdleConnTimeout:     30 * time.Second,
	DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
}

// Goto changes the base URLs that are tried from now on.
func (v *Visitor) Goto(bases ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bases = slices.Clone(bases)
}

// base is the base URL in use, which is also the page's origin.
func (v *Visitor) base() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.bases[0]
}

// tryNext puts the next base first, and the present one last.
func (v *Visitor) tryNext() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.bases = append(v.bases[1:], v.bases[0])
}

// request makes a request for a path as this browser does.
func (v *Visitor) request(ctx context.Context, method, path string, form url.Values) (*http.Response, error) {
	base := v.base()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "text/html")
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", base)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	if v.opts.Address != "" {
		r.Header.Set("X-Forwarded-For", v.opts.Address)
	}
	return v.http.Do(r)
}

// load gets or posts the whole page and reads it.
func (v *Visitor) load(method string, form url.Values) error {
	resp, err := v.request(v.ctx, method, v.opts.Room, form)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the page answers %s", resp.Status) //nolint:err113 // of a test
	}
	s := v.read(string(page))
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mark = resp.Request.URL.Query().Get("adopt")
	if v.remember != "" && !s.Joined {
		// The page script spares a joined visitor the sight of the join form.
		s.Joined, s.Name = true, v.remember
	}
	v.noteLocked(s, false)
	return nil
}

// read reads a page as the visitor does, with the names or without.
func (v *Visitor) read(page string) Sight {
	s := readSight(page)
	if v.opts.Names {
		s.Names = strings.Join(readRoster(page), "\n")
	}
	return s
}

// NewReader returns a visitor without JavaScript: [Visitor.Post] and [Visitor.Load] load the
// page, and it is never live. With the Browser of another visitor it stands for that
// visitor's page before the page script has loaded.
func NewReader(t testing.TB, opts Options, base string) *Visitor {
	v := newVisitor(t, opts, []string{base})
	close(v.ended)
	t.Cleanup(v.cancel)
	return v
}

// Load loads the page.
func (v *Visitor) Load() error { return v.load(http.MethodGet, nil) }

// Post joins or leaves by a form, as a browser without JavaScript does, and
// reads the page that follows.
func (v *Visitor) Post(action, name string) error {
	return v.load(http.MethodPost, url.Values{"lvt-action": {action}, "username": {name}, action: {""}})
}

// Awaken loads the page script into the page of a reader: the page becomes live in a tab of
// its own, or goes on trying in the background. It returns the visitor who takes over from
// the reader.
func (v *Visitor) Awaken() *Visitor {
	opts := v.opts
	opts.Tab = ""
	next := newVisitor(v.t, opts, v.bases)
	now := v.Now()
	v.mu.Lock()
	next.loaded, next.adopt = len(v.history) > 0, v.mark
	v.mu.Unlock()
	if next.adopt != "" && now.Joined {
		next.remember = now.Name
	}
	next.visit()
	return next
}
