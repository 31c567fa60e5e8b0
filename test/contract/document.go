package contract

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// document is openapi.json or asyncapi.json.
type document struct {
	name     string
	root     any
	compiler *jsonschema.Compiler
}

// read reads a document. Objects have no other fields than those that it names, though
// clients ignore such fields: a field that is sent is to be described.
func read(name, text string) *document {
	root, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		panic(err)
	}
	closeObjects(root)
	d := &document{name: name, root: root, compiler: jsonschema.NewCompiler()}
	d.compiler.DefaultDraft(jsonschema.Draft2020)
	d.compiler.AssertFormat()
	if err := d.compiler.AddResource(name, root); err != nil {
		panic(err)
	}
	return d
}

// closeObjects has the schemas in v that name the fields of an object allow no others.
func closeObjects(v any) {
	switch v := v.(type) {
	case []any:
		for _, one := range v {
			closeObjects(one)
		}
	case map[string]any:
		_, named := v["properties"]
		if _, said := v["additionalProperties"]; named && !said && v["type"] == "object" {
			v["additionalProperties"] = false
		}
		for _, one := range v {
			closeObjects(one)
		}
	}
}

// place is a place in a document.
type place struct {
	doc     *document
	pointer string
	value   any // nil: there is nothing
}

func (d *document) at(keys ...string) place { return place{d, "", d.root}.at(keys...) }

// at goes on to where keys lead, from one object to the next, and to what each refers to.
func (p place) at(keys ...string) place {
	for _, key := range keys {
		object, _ := p.value.(map[string]any)
		p.value = object[key]
		p.pointer += "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
		object, _ = p.value.(map[string]any)
		if to, ok := object["$ref"].(string); ok && len(object) == 1 {
			p = p.doc.at(strings.Split(strings.TrimPrefix(to, "#/"), "/")...)
		}
	}
	return p
}

// keys are the fields of the object at p, sorted.
func (p place) keys() []string {
	object, _ := p.value.(map[string]any)
	return slices.Sorted(maps.Keys(object))
}

// list is the list at p, each by itself.
func (p place) list() (all []place) {
	list, _ := p.value.([]any)
	for i := range list {
		one := place{p.doc, p.pointer + "/" + strconv.Itoa(i), list[i]}
		object, _ := one.value.(map[string]any)
		if to, ok := object["$ref"].(string); ok {
			one = p.doc.at(strings.Split(strings.TrimPrefix(to, "#/"), "/")...)
		}
		all = append(all, one)
	}
	return all
}

// text is the string at p; "" if there is none.
func (p place) text() string {
	text, _ := p.value.(string)
	return text
}

// is reports whether there is true at p.
func (p place) is() bool { return p.value == true }

// schema returns the schema at p, or nil if there is none.
func (p place) schema() *jsonschema.Schema {
	if p.value == nil {
		return nil
	}
	s, err := p.doc.compiler.Compile(p.doc.name + "#" + (&url.URL{Path: p.pointer}).EscapedPath())
	if err != nil {
		panic(err)
	}
	return s
}

// operation is what the API can be asked for at a path by a method.
type operation struct {
	name       string // such as GET /v1/rooms
	parameters []parameter
	body       *jsonschema.Schema // nil: a body is not read
	mayBeEmpty bool
	answers    map[int]answer
}

type parameter struct {
	name, in    string
	required    bool
	emptyIsNone bool
	list        bool // with commas between its elements
	schema      *jsonschema.Schema
}

type answer struct {
	headers []parameter
	content map[string]*jsonschema.Schema // by media type; none: there is no body
}

// operations are the operations of openapi.json, by path and method.
func (d *document) operations() map[string]map[string]*operation {
	all := map[string]map[string]*operation{}
	for _, path := range d.at("paths").keys() {
		item := d.at("paths", path)
		all[path] = map[string]*operation{}
		for _, method := range item.keys() {
			if method != "parameters" {
				o := operationAt(item.at(method), item.at("parameters"))
				o.name = strings.ToUpper(method) + " " + path
				all[path][strings.ToUpper(method)] = o
			}
		}
	}
	return all
}

func operationAt(p, common place) *operation {
	o := &operation{
		body: p.at("requestBody", "content", "application/json", "schema").schema(), answers: map[int]answer{},
		mayBeEmpty: !p.at("requestBody", "required").is(),
	}
	for _, one := range append(common.list(), p.at("parameters").list()...) {
		o.parameters = append(o.parameters, parameter{
			name: one.at("name").text(), in: one.at("in").text(), required: one.at("required").is(),
			emptyIsNone: one.at("allowEmptyValue").is(), list: one.at("schema", "type").text() == "array", schema: one.at("schema").schema(),
		})
	}
	for _, status := range p.at("responses").keys() {
		code, err := strconv.Atoi(status)
		if err != nil {
			panic(fmt.Sprintf("%s: status %s", p.pointer, status))
		}
		said := p.at("responses", status)
		a := answer{content: map[string]*jsonschema.Schema{}}
		for _, name := range said.at("headers").keys() {
			h := said.at("headers", name)
			a.headers = append(a.headers, parameter{name: name, in: "header", required: h.at("required").is(), schema: h.at("schema").schema()})
		}
		for _, media := range said.at("content").keys() {
			a.content[media] = said.at("content", media, "schema").schema()
		}
		o.answers[code] = a
	}
	return o
}
