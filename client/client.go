package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Options are the settings of a [Client]. The zero value sends no credentials, which is
// enough to read public rooms.
type Options struct {
	// Key is sent with each request: an API key, or a member token.
	Key string

	// Token, in place of Key, returns the member token for a request. It is called before
	// each request, by several goroutines at a time. A stream asks for the next token when
	// three quarters of a token's life have passed. A Token that caches must renew earlier,
	// since users leave when their token expires.
	Token func(context.Context) (string, error)

	// HTTPClient sends requests; nil: [http.DefaultClient]. Its Timeout does not count for
	// event streams, and it does not follow redirects.
	HTTPClient *http.Client
}

// Client calls the API of one server, or of a balancer before several.
type Client struct {
	base    *url.URL // with /v1
	opts    Options
	calls   *http.Client
	streams *http.Client
}

// New returns a client of the server whose pages are at baseURL, such as
// https://presence.example. It sends nothing yet.
func New(baseURL string, o Options) (*Client, error) {
	base, err := url.Parse(baseURL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("presence client: %w", err)
	case base.Scheme != "http" && base.Scheme != "https" || base.Host == "":
		return nil, fmt.Errorf("presence client: %q is no address such as https://presence.example", baseURL)
	case o.Key != "" && o.Token != nil:
		return nil, errors.New("presence client: give a Key or a Token, not both")
	}
	if o.HTTPClient == nil {
		o.HTTPClient = http.DefaultClient
	}
	calls := *o.HTTPClient
	// A DELETE that is redirected would be sent as a GET, and seem to succeed.
	calls.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	streams := calls
	streams.Timeout = 0
	return &Client{base: base.JoinPath("v1"), opts: o, calls: &calls, streams: &streams}, nil
}

// errSegment is the error for an empty name, or one of dots.
var errSegment = errors.New("presence client: no room, user or connection has the name that was given")

// url returns the address for the segments of a path.
func (c *Client) url(query url.Values, segments ...string) (string, error) {
	escaped := make([]string, len(segments))
	for i, s := range segments {
		if s == "" || s == "." || s == ".." { // would name something else
			return "", errSegment
		}
		escaped[i] = url.PathEscape(s)
	}
	u := c.base.JoinPath(escaped...)
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// credential returns the key or token of the next request; "" for none.
func (c *Client) credential(ctx context.Context) (string, error) {
	if c.opts.Token == nil {
		return c.opts.Key, nil
	}
	token, err := c.opts.Token(ctx)
	if err != nil {
		return "", fmt.Errorf("presence client: get a token: %w", err)
	}
	return token, nil
}

// send sends a request by one of the clients, and returns the answer if it is a success.
// The error is a [*Problem] if the server refused.
func (c *Client) send(by *http.Client, r *http.Request, credential string) (*http.Response, error) {
	if credential != "" {
		r.Header.Set("Authorization", "Bearer "+credential)
	}
	resp, err := by.Do(r)
	if err != nil {
		return nil, fmt.Errorf("presence client: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		defer finish(resp.Body)
		return nil, problemOf(resp)
	}
	return resp, nil
}

// call sends a request with a body, unless that is nil, and reads the answer into answer,
// unless that is nil. It reports whether the answer was 201.
func (c *Client) call(ctx context.Context, method string, body, answer any, query url.Values, segments ...string) (created bool, err error) {
	address, err := c.url(query, segments...)
	if err != nil {
		return false, err
	}
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return false, fmt.Errorf("presence client: %w", err)
		}
		sent = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, address, sent)
	if err != nil {
		return false, fmt.Errorf("presence client: %w", err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	credential, err := c.credential(ctx)
	if err != nil {
		return false, err
	}
	resp, err := c.send(c.calls, r, credential) //nolint:bodyclose // finish does
	if err != nil {
		return false, err
	}
	defer finish(resp.Body)
	if answer != nil {
		if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
			return false, fmt.Errorf("presence client: read the answer to %s %s: %w", method, r.URL.Path, err)
		}
	}
	return resp.StatusCode == http.StatusCreated, nil
}

// get reads the resource at the segments of a path into answer.
func (c *Client) get(ctx context.Context, answer any, query url.Values, segments ...string) error {
	_, err := c.call(ctx, http.MethodGet, nil, answer, query, segments...)
	return err
}

// finish reads the rest of a body and closes it, so that its connection can be used again.
func finish(body io.ReadCloser) {
	const rest = 4 << 10
	_, _ = io.CopyN(io.Discard, body, rest) // else the connection is closed
	_ = body.Close()
}
