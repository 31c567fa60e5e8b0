package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"presence/api"
)

// message is what asyncapi.json says of one.
type message struct {
	payload *jsonschema.Schema
	id      *jsonschema.Schema // nil: it has none
}

// messages are the messages of asyncapi.json, by name.
var messages = sync.OnceValue(func() map[string]message {
	d := read("asyncapi.json", api.AsyncAPI)
	all := map[string]message{}
	for _, name := range d.at("components", "messages").keys() {
		m := d.at("components", "messages", name)
		all[name] = message{m.at("payload").schema(), m.at("headers", "properties", "id").schema()}
	}
	return all
})

// Event fails t unless an event of a stream is as asyncapi.json has it. id is "" where it
// has none.
func Event(t TB, name, id, data string) {
	t.Helper()
	if err := checkEvent(name, id, data); err != nil {
		t.Errorf("against asyncapi.json: event %q, id %q, data %.1000s\n%v", name, id, data, err)
	}
}

func checkEvent(name, id, data string) error {
	m, ok := messages()[name]
	if !ok {
		return errors.New("there is no such message")
	}
	if err := validate(m.payload, []byte(data)); err != nil {
		return err
	}
	if id == "" {
		return nil
	}
	var told struct{ Version int64 }
	if err := json.Unmarshal([]byte(data), &told); err != nil {
		return err
	}
	switch {
	case m.id == nil:
		return errors.New("the message has no id")
	case id != strconv.FormatInt(told.Version, 10):
		return fmt.Errorf("the id is not the version %d", told.Version)
	}
	return m.id.Validate(id)
}

// Transport checks the exchanges with the API that go through it, and the events of streams
// as they are read. A nil Base is [http.DefaultTransport].
type Transport struct {
	T    TB
	Base http.RoundTripper
}

// RoundTrip sends r.
func (c *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent []byte
	if r.Body != nil {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		_ = r.Body.Close() // was read
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	base := c.Base
	if base == nil {
		base = http.DefaultTransport
	}
	resp, err := base.RoundTrip(r)
	if err != nil || r.URL.Path != "/v1" && !strings.HasPrefix(r.URL.Path, "/v1/") {
		return resp, err
	}
	if resp.Header.Get("Content-Type") == "text/event-stream" {
		exchange(c.T, r, sent, resp.StatusCode, resp.Header, nil)
		resp.Body = &stream{ReadCloser: resp.Body, t: c.T}
		return resp, nil
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close() // was read
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	exchange(c.T, r, sent, resp.StatusCode, resp.Header, body)
	return resp, nil
}

// CloseIdleConnections is for [http.Client.CloseIdleConnections].
func (c *Transport) CloseIdleConnections() {
	if base, ok := c.Base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

// stream checks the events of a body when they are read.
type stream struct {
	io.ReadCloser
	t    TB
	rest []byte // of an event that has begun
}

// Read reads on.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.rest = append(s.rest, p[:n]...)
	for {
		event, rest, ends := bytes.Cut(s.rest, []byte("\n\n"))
		if !ends {
			return n, err
		}
		s.rest = rest
		s.event(string(event))
	}
}

// event checks the lines of one.
func (s *stream) event(text string) {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if _, twice := fields[name]; twice || !strings.Contains(" id event data retry ", " "+name+" ") && name != "" {
			s.t.Errorf("line %q of an event", line)
		}
		fields[name] = strings.TrimPrefix(value, " ")
	}
	if fields["event"] != "" || fields["data"] != "" {
		Event(s.t, fields["event"], fields["id"], fields["data"])
	}
}
