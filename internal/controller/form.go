package controller

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// The actions of a page. A post can ask for no others.
const (
	actionJoin  = "join"
	actionLeave = "leave"
)

// The fields of a post that matter: those by which livetemplate learns of an action, by
// name or by the button that was pressed, and those of the page's own form.
const (
	fieldAction    = "lvt-action"
	fieldSubmitter = "lvt-submitter"
	fieldName      = "username"
	fieldTyped     = "typed"
)

// maxFormMemory is how much of a form is kept in memory. No form that is read is larger.
const maxFormMemory = 1 << 20

// ErrForm is returned by [ReadForm] for a post that asks for nothing that a page can do.
var ErrForm = errors.New("this is no form of a room")

// ReadForm checks a post to the page of a room, which may be a form or JSON, and returns
// the request to pass on in its place.
//
// livetemplate would run whatever method of the controller a post names. It takes the
// name from any of several fields, the query, and any spelling of a JSON key. So ReadForm
// writes a new request with an action that is exactly join or leave, and the name that
// was typed. No two readers can disagree about that. The query is ignored.
//
// The error wraps [ErrForm], or is a [*http.MaxBytesError] for a body that is too large.
// Then nothing has happened.
func ReadForm(r *http.Request) (*http.Request, error) {
	fields, err := readFields(r)
	if err != nil {
		return nil, err
	}
	action, err := actionOf(fields)
	if err != nil {
		return nil, err
	}
	body := url.Values{fieldAction: {action}, fieldSubmitter: {action}}
	for _, name := range []string{fieldName, fieldTyped} {
		if value, ok := fields[name]; ok {
			body.Set(name, value)
		}
	}
	return withForm(r, body), nil
}

// withForm returns r with body as its form, and a query that adds nothing to it.
func withForm(r *http.Request, body url.Values) *http.Request {
	text := body.Encode()
	r = r.Clone(r.Context())
	r.Form, r.PostForm, r.MultipartForm = nil, nil, nil
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(strings.NewReader(text)), int64(len(text)), nil
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Content-Length", strconv.Itoa(len(text)))
	query := r.URL.Query()
	for _, name := range []string{fieldAction, fieldSubmitter, fieldName, fieldTyped, actionJoin, actionLeave} {
		query.Del(name)
	}
	r.URL.RawQuery = query.Encode()
	return r
}

// actionOf returns the action that the fields of a post ask for, by its name or else by
// the button.
func actionOf(fields map[string]string) (string, error) {
	for _, field := range []string{fieldAction, fieldSubmitter} {
		switch action := fields[field]; action {
		case "":
		case actionJoin, actionLeave:
			return action, nil
		default:
			return "", fmt.Errorf("%w: there is no action %.20q", ErrForm, action)
		}
	}
	_, join := fields[actionJoin]
	_, leave := fields[actionLeave]
	switch {
	case join == leave:
		return "", fmt.Errorf("%w: it says neither join nor leave, or both", ErrForm)
	case join:
		return actionJoin, nil
	default:
		return actionLeave, nil
	}
}

// readFields returns the fields of a post. Each may occur only once.
func readFields(r *http.Request) (map[string]string, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		kind = ""
	}
	switch kind {
	case "application/x-www-form-urlencoded":
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, broken(err)
		}
		values, err := url.ParseQuery(string(text))
		if err != nil {
			return nil, broken(err)
		}
		return once(values)
	case "multipart/form-data":
		if err := r.ParseMultipartForm(maxFormMemory); err != nil { //nolint:gosec // the server bounds all bodies
			return nil, broken(err)
		}
		defer func() { _ = r.MultipartForm.RemoveAll() }() // deletes nothing: all is in memory
		return once(r.MultipartForm.Value)
	case "application/json":
		text, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, broken(err)
		}
		return readJSON(text)
	default:
		return nil, fmt.Errorf("%w: it is neither a form nor JSON", ErrForm)
	}
}

// broken returns the error for a body that can't be read.
func broken(err error) error {
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return tooLarge
	}
	return fmt.Errorf("%w: %w", ErrForm, err)
}

// once returns the values of a form in which no name occurs twice.
func once(values map[string][]string) (map[string]string, error) {
	fields := make(map[string]string, len(values))
	for name, all := range values {
		if len(all) != 1 {
			return nil, fmt.Errorf("%w: %.20q comes more than once", ErrForm, name)
		}
		fields[name] = all[0]
	}
	return fields, nil
}

// readJSON returns the fields of a JSON post. The client of livetemplate sends such posts
// when it has no socket: {"action":"join","data":{"username":"Ann"}}.
func readJSON(body []byte) (map[string]string, error) {
	// Use a map, because a struct would accept "ACTION" for "action".
	var whole map[string]any
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber() // numbers stay as they were typed
	if err := decoder.Decode(&whole); err != nil {
		return nil, broken(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more follows the JSON", ErrForm)
	}
	fields := map[string]string{}
	for key, field := range map[string]string{"action": fieldAction, "submitter": fieldSubmitter} {
		switch value := whole[key].(type) {
		case nil:
		case string:
			fields[field] = value
		default:
			return nil, fmt.Errorf("%w: %q is no text", ErrForm, key)
		}
	}
	data, isObject := whole["data"].(map[string]any)
	if !isObject && whole["data"] != nil {
		return nil, fmt.Errorf("%w: the data is no object", ErrForm)
	}
	for _, name := range []string{fieldName, fieldTyped} {
		if value, ok := data[name]; ok {
			fields[name] = text(value)
		}
	}
	return fields, nil
}
