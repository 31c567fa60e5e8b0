// Package contract holds what tests send and receive to api/openapi.json and
// api/asyncapi.json: the requests that are carried out, all answers, and all events.
//
// A request that is refused may be anything. That it is refused for what the documents say
// follows: what is against them is never carried out.
package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"presence/api"
)

// TB is the part of testing.TB that this package uses.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
}

// described is what openapi.json says.
var described = sync.OnceValue(func() *rest {
	d := read("openapi.json", api.OpenAPI)
	r := &rest{operations: d.operations(), problem: map[int]*jsonschema.Schema{
		http.StatusNotFound:         d.at("components", "schemas", "ProblemNotFound").schema(),
		http.StatusMethodNotAllowed: d.at("components", "schemas", "ProblemMethodNotAllowed").schema(),
	}, seen: map[string]bool{}}
	return r
})

// rest is the API without the events of its streams.
type rest struct {
	operations map[string]map[string]*operation
	problem    map[int]*jsonschema.Schema // of what is no operation

	mu   sync.Mutex // guards:
	seen map[string]bool
}

// Operations are the operations of openapi.json, such as "GET /v1/rooms/{room}", in no order.
func Operations() (names []string) {
	for _, methods := range described().operations {
		for _, o := range methods {
			names = append(names, o.name)
		}
	}
	return names
}

// Unseen are the answers that openapi.json describes and no exchange had yet, such as
// "GET /v1/rooms 200", sorted.
func Unseen() (names []string) {
	d := described()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, methods := range d.operations {
		for _, o := range methods {
			for status := range o.answers {
				if name := fmt.Sprint(o.name, " ", status); !d.seen[name] {
					names = append(names, name)
				}
			}
		}
	}
	slices.Sort(names)
	return names
}

// Exchange fails t unless r, which sent a body, was answered as openapi.json has it, and
// all parameters of what was carried out are described there.
func Exchange(t TB, r *http.Request, sent []byte, status int, h http.Header, body []byte) {
	t.Helper()
	exchange(t, r, sent, status, h, body)
	if status >= http.StatusBadRequest {
		return
	}
	methods, _ := described().find(r.URL)
	for name := range r.URL.Query() {
		if o := methods[r.Method]; o != nil && !slices.ContainsFunc(o.parameters, func(p parameter) bool { return p.in == "query" && p.name == name }) {
			t.Errorf("openapi.json does not describe the parameter %s of %s", name, o.name)
		}
	}
}

func exchange(t TB, r *http.Request, sent []byte, status int, h http.Header, body []byte) {
	t.Helper()
	if err := described().check(r, sent, status, h, body); err != nil {
		t.Errorf("against openapi.json: %s %s %.300s\nis answered %d %v %.1000s\n%v", r.Method, r.URL, sent, status, h, body, err)
	}
}

// check returns the mistakes in an exchange.
func (d *rest) check(r *http.Request, sent []byte, status int, h http.Header, body []byte) error {
	methods, values := d.find(r.URL)
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // whose body net/http leaves out
	}
	o := methods[method]
	switch {
	case o != nil:
	case methods != nil && r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != "":
		if status != http.StatusNoContent || len(body) > 0 {
			return errors.New("a preflight is 204")
		}
		return nil
	case methods != nil:
		return errors.Join(d.refused(http.StatusMethodNotAllowed, r, status, h, body), allow(methods, h))
	default:
		return d.refused(http.StatusNotFound, r, status, h, body)
	}
	d.mu.Lock()
	d.seen[fmt.Sprint(o.name, " ", status)] = true
	d.mu.Unlock()
	said, ok := o.answers[status]
	if !ok {
		return fmt.Errorf("%s is never answered %d", o.name, status)
	}
	err := said.check(r.Method == http.MethodHead, h, body)
	if status < http.StatusBadRequest {
		err = errors.Join(err, o.request(r, values, sent))
	}
	return err
}

// find returns the operations at an address, and the values of the parameters in its path.
func (d *rest) find(u *url.URL) (map[string]*operation, map[string]string) {
	sent := strings.Split(u.EscapedPath(), "/")
	for path, methods := range d.operations {
		segments := strings.Split(path, "/")
		values := map[string]string{}
		matches := len(segments) == len(sent)
		for i := 0; matches && i < len(sent); i++ {
			text, err := url.PathUnescape(sent[i])
			if name, ok := strings.CutPrefix(segments[i], "{"); ok {
				values[strings.TrimSuffix(name, "}")] = text
				matches = err == nil && text != ""
			} else {
				matches = text == segments[i]
			}
		}
		if matches {
			return methods, values
		}
	}
	return nil, nil
}

// refused returns the mistakes in the answer to a request that is no operation.
func (d *rest) refused(want int, r *http.Request, status int, h http.Header, body []byte) error {
	if status != want {
		return fmt.Errorf("what is not described is answered %d", want)
	}
	return answer{content: map[string]*jsonschema.Schema{"application/problem+json": d.problem[want]}}.check(r.Method == http.MethodHead, h, body)
}

// allow returns the mistakes in the header Allow of a 405 answer.
func allow(methods map[string]*operation, h http.Header) error {
	var want []string
	for method := range methods {
		want = append(want, method)
		if method == http.MethodGet {
			want = append(want, http.MethodHead)
		}
	}
	got := strings.Split(h.Get("Allow"), ", ")
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		return fmt.Errorf("the address takes %v", want)
	}
	return nil
}

// check returns the mistakes in an answer. head says that it has no body.
func (a answer) check(head bool, h http.Header, body []byte) error {
	var errs []error
	for _, one := range a.headers {
		errs = append(errs, one.check(strings.Join(h.Values(one.name), ", "), len(h.Values(one.name)) > 0))
	}
	if len(a.content) == 0 {
		if len(body) > 0 {
			errs = append(errs, errors.New("the answer has no body"))
		}
		return errors.Join(errs...)
	}
	media, _, _ := mime.ParseMediaType(h.Get("Content-Type"))
	schema, ok := a.content[media]
	switch {
	case !ok:
		errs = append(errs, fmt.Errorf("the answer is not of the type %q", media))
	case !head && media != "text/event-stream":
		errs = append(errs, validate(schema, body))
	}
	return errors.Join(errs...)
}

// request returns the mistakes in a request that the server carried out.
func (o *operation) request(r *http.Request, path map[string]string, sent []byte) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	errs := []error{err}
	for _, one := range o.parameters {
		switch one.in {
		case "path":
			errs = append(errs, one.check(path[one.name], true))
		case "query":
			errs = append(errs, one.check(strings.Join(query[one.name], ","), query.Has(one.name)))
		case "header":
			errs = append(errs, one.check(r.Header.Get(one.name), r.Header.Get(one.name) != ""))
		}
	}
	if empty := len(bytes.TrimSpace(sent)) == 0; o.body != nil && (!empty || !o.mayBeEmpty) {
		errs = append(errs, validate(o.body, sent))
	}
	return errors.Join(errs...)
}

// check returns the mistakes in the value of a parameter or header.
func (p parameter) check(text string, given bool) error {
	if !given || text == "" && p.emptyIsNone {
		if p.required {
			return fmt.Errorf("%s is missing", p.name)
		}
		return nil
	}
	var value any = text
	if p.list {
		var list []any
		for one := range strings.SplitSeq(text, ",") {
			list = append(list, one)
		}
		value = list
	}
	err := p.schema.Validate(value)
	if digits := strings.Trim(text, "0123456789") == ""; err != nil && digits && text != "" {
		err = p.schema.Validate(json.Number(text))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

// validate returns the mistakes in a JSON text.
func validate(schema *jsonschema.Schema, text []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("%.200q: %w", text, err)
	}
	return schema.Validate(value)
}
