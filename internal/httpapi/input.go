package httpapi

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"presence/internal/presence"
	"presence/internal/store"
)

const (
	// maxLimit and defaultLimit are how many elements a page of a list has.
	maxLimit     = 1000
	defaultLimit = 100

	// maxMeta is the largest metadata of a user in compact form, in bytes.
	maxMeta = 1024

	// maxFaults is how many mistakes an answer lists. A body has room for thousands.
	maxFaults = 50
)

// mistake is the error for a bad request.
type mistake struct {
	code   Code
	detail string
	faults []Fault
}

// Error returns what to do.
func (m *mistake) Error() string { return m.detail }

// faults are the mistakes in a request, one by one: the first maxFaults of them.
type faults []Fault

// add notes a fault, unless enough are known.
func (f *faults) add(pointer, detail string) {
	if len(*f) < maxFaults {
		*f = append(*f, Fault{pointer, detail})
	}
}

// err returns the error for the faults, or nil if there are none.
func (f *faults) err() error {
	if len(*f) == 0 {
		return nil
	}
	return invalid(*f...)
}

// invalid is the error for a request with faults.
func invalid(f ...Fault) error {
	return &mistake{Invalid, "The field errors says what is wrong. Nothing has been changed.", f}
}

// query reads the query of an address. A parameter that is empty counts as none.
type query struct {
	values url.Values
	faults faults
}

func queryOf(r *http.Request) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	q := &query{values: values}
	if err != nil {
		q.faults.add("", "The query can't be read: percent-encode all characters but letters and digits.")
	}
	return q
}

// text returns a parameter, which may be given once.
func (q *query) text(name string) string {
	if len(q.values[name]) > 1 {
		q.faults.add("/"+name, "Give it once.")
	}
	return q.values.Get(name)
}

// limit returns the most elements that the request asks for.
func (q *query) limit(most int) int {
	text := q.text("limit")
	if text == "" {
		return min(defaultLimit, most)
	}
	n, ok := number(text, int64(most))
	if !ok || n < 1 {
		q.faults.add("/limit", fmt.Sprintf("A limit is a number from 1 to %d.", most))
	}
	return int(n)
}

// number reads decimal digits, up to most.
func number(text string, most int64) (n int64, ok bool) {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n <= most
}

// cursor returns the text of the cursor; "" for the first page.
func (q *query) cursor() string {
	cursor := q.text("cursor")
	text, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || cursorOf(string(text)) != cursor { // the decoder leaves newlines out
		q.badCursor()
	}
	return string(text)
}

func (q *query) badCursor() {
	q.faults.add("/cursor", "This cursor does not belong to this list. Use the value of next from the page before, or none for the first page.")
}

// cursorOf is the cursor that stands for text.
func cursorOf(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// place is where a list of members continues.
type place struct {
	// scan says that the list is in no order, and continues from cursor. Otherwise it
	// continues after the member user, who joined at since.
	scan   bool
	cursor store.Cursor
	since  int64
	user   string
}

// String is the text of a cursor for the place.
func (p place) String() string {
	if p.scan {
		return fmt.Sprintf("s %d %s", p.cursor.At, p.cursor.Birth)
	}
	return fmt.Sprintf("o %d %s", p.since, p.user)
}

// place returns where the list of members is to continue.
func (q *query) place() (p place) {
	text := q.cursor()
	if text == "" {
		return place{}
	}
	kind, rest, _ := strings.Cut(text, " ")
	at, id, _ := strings.Cut(rest, " ")
	var err error
	switch kind {
	case "s":
		p.scan, p.cursor.Birth = true, id
		p.cursor.At, err = strconv.ParseUint(at, 10, 64)
		if _, ok := number(id, maxVersion-1); !ok {
			err = presence.ErrInvalidID
		}
	case "o":
		p.user = id
		p.since, err = strconv.ParseInt(at, 10, 64)
		err = errors.Join(err, presence.CheckID(id))
	default:
		err = presence.ErrInvalidID
	}
	if err != nil || p.String() != text {
		q.badCursor()
	}
	return p
}

// object is a JSON object that a request sent.
type object struct {
	fields map[string]json.RawMessage
	faults faults
}

// readObject reads the body of a request, at most limit bytes: a JSON object that may have
// the given fields and no others. The error is a [*mistake].
func readObject(w http.ResponseWriter, r *http.Request, limit int64, fields ...string) (*object, error) {
	body, err := readBody(w, r, limit)
	if err != nil {
		return nil, err
	}
	return newObject(body, fields...)
}

// newObject reads a JSON object that may have the given fields and no others. The error is a
// [*mistake].
func newObject(body []byte, fields ...string) (*object, error) {
	o := &object{fields: map[string]json.RawMessage{}}
	if err := o.parse(body, fields); err != nil {
		return nil, invalid(Fault{"", err.Error()})
	}
	return o, nil
}

// readBody reads the body of a request, of any content type but multipart.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	tooLarge := &mistake{code: TooLarge, detail: fmt.Sprintf("Please send at most %d KiB.", limit>>10)}
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if parsed, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil {
		kind = parsed
	}
	if strings.HasPrefix(strings.ToLower(strings.TrimSpace(kind)), "multipart/") {
		return nil, &mistake{code: UnsupportedMediaType, detail: "Please send JSON, under any content type but multipart."}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if tooMuch := (*http.MaxBytesError)(nil); errors.As(err, &tooMuch) {
		return nil, tooLarge
	}
	if err != nil {
		return nil, invalid(Fault{"", "The body ended early. Please send it again."})
	}
	return body, nil
}

// unreadable says in a sentence for the sender why a body can't be read.
type unreadable string

func (u unreadable) Error() string { return string(u) }

const (
	errNotUTF8   unreadable = "Please send UTF-8."
	errNoObject  unreadable = "Please send a JSON object, such as {}."
	errMoreFound unreadable = "Please send one JSON object, and nothing after it."
)

// parse reads a body. encoding/json alone would accept "USER" for "user", and of two fields
// with the same name use the last.
func (o *object) parse(body []byte, fields []string) error {
	if !utf8.Valid(body) {
		return errNotUTF8
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	if first, err := decoder.Token(); err != nil || first != json.Delim('{') {
		return errNoObject
	}
	for decoder.More() {
		token, err := decoder.Token()
		name, isText := token.(string)
		var value json.RawMessage
		if err != nil || !isText || decoder.Decode(&value) != nil {
			return errNoObject
		}
		pointer := "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
		if _, twice := o.fields[name]; twice {
			o.faults.add(pointer, "Give it once.")
		} else if !slices.Contains(fields, name) {
			o.faults.add(pointer, "There is no such field. The fields are "+strings.Join(fields, ", ")+".")
		}
		o.fields[name] = value
	}
	if _, err := decoder.Token(); err != nil {
		return errNoObject
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errMoreFound
	}
	return nil
}

// has reports whether a field is given, and is not null.
func (o *object) has(name string) bool {
	value, ok := o.fields[name]
	return ok && string(value) != "null"
}

// isNull reports whether a field is given as null.
func (o *object) isNull(name string) bool {
	value, ok := o.fields[name]
	return ok && string(value) == "null"
}

// text returns a field that is a string; "" where it is not given.
func (o *object) text(name string) string {
	var text string
	if o.has(name) && json.Unmarshal(o.fields[name], &text) != nil {
		o.faults.add("/"+name, "It must be a string.")
	}
	return text
}

// name returns the name that a user is to have.
func (o *object) name() string {
	if !o.has("name") {
		return ""
	}
	known := len(o.faults)
	name, err := presence.CleanName(o.text("name"))
	if err != nil && len(o.faults) == known {
		o.faults.add("/name", err.Error())
	}
	return name
}

// metadata returns the JSON object meta, decoded; nil where it is not given.
func (o *object) metadata() map[string]any {
	if !o.has("meta") {
		return nil
	}
	meta, err := decodeMeta(string(o.fields["meta"]))
	if err != nil {
		o.faults.add("/meta", "It must be a JSON object.")
		return nil
	}
	return meta
}

// decodeMeta returns metadata as a map. Numbers stay as they are written.
func decodeMeta(text string) (meta map[string]any, err error) {
	if text == "" {
		return map[string]any{}, nil
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	err = decoder.Decode(&meta)
	return meta, err
}

// encodeMeta returns metadata in compact form, which is the same for equal metadata; "" for
// an empty object. The error says that they are too large.
func encodeMeta(meta map[string]any) (string, error) {
	if len(meta) == 0 {
		return "", nil
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(meta); err != nil {
		return "", err //nolint:wrapcheck // not for what was decoded
	}
	text := lineSeparators(strings.TrimSuffix(out.String(), "\n"))
	if len(text) > maxMeta {
		return "", errMetaSize
	}
	return text, nil
}

// lineSeparators writes U+2028 and U+2029 as they are. encoding/json escapes them for
// JavaScript, in twice the bytes.
func lineSeparators(text string) string {
	if !strings.Contains(text, `\u202`) {
		return text
	}
	// A pair of backslashes stands for a backslash in the text.
	return strings.NewReplacer(`\\`, `\\`, `\u2028`, "\u2028", `\u2029`, "\u2029").Replace(text)
}

// errMetaSize says how large metadata may be.
var errMetaSize = fmt.Errorf("metadata have at most %d bytes in compact form", maxMeta)

// merge applies a JSON merge patch (RFC 7396) to an object, which it changes.
func merge(object, patch map[string]any) map[string]any {
	for name, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(object, name)
		case map[string]any:
			inner, ok := object[name].(map[string]any)
			if !ok {
				inner = map[string]any{}
			}
			object[name] = merge(inner, value)
		default:
			object[name] = value
		}
	}
	return object
}
