package api

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"presence/internal/redistest"
)

// documents are both, by name.
var documents = map[string]string{"openapi.json": OpenAPI, "asyncapi.json": AsyncAPI}

// The documents are valid by the schemas that the writers of the specifications publish.
func TestDocumentsAreValid(t *testing.T) {
	node := redistest.Tool(t, "node")
	if _, err := os.Stat("../web/node_modules/ajv"); errors.Is(err, fs.ErrNotExist) && os.Getenv("CI") == "" {
		t.Skip("the validators are not installed: run `npm ci` in web/")
	}
	if out, err := exec.CommandContext(t.Context(), node, "../web/validate.mjs").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Every reference leads somewhere, every schema is one, and examples are as their schemas
// have it.
func TestSchemas(t *testing.T) {
	for name, text := range documents {
		root, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		compiler := jsonschema.NewCompiler()
		compiler.DefaultDraft(jsonschema.Draft2020)
		compiler.AssertFormat()
		if err := compiler.AddResource(name, root); err != nil {
			t.Fatal(err)
		}
		walk(root, func(object map[string]any) {
			ref, ok := object["$ref"].(string)
			if ok && find(root, ref) == nil {
				t.Errorf("%s: %s leads nowhere", name, ref)
			}
		})
		examples := 0
		for schema, said := range find(root, "#/components/schemas").(map[string]any) {
			compiled, err := compiler.Compile(name + "#/components/schemas/" + schema)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			list, _ := said.(map[string]any)["examples"].([]any)
			for _, one := range list {
				examples++
				if err := compiled.Validate(one); err != nil {
					t.Errorf("%s: example %v of %s: %v", name, one, schema, err)
				}
			}
		}
		if examples == 0 {
			t.Errorf("%s has no examples", name)
		}
	}
}

// A schema that both documents have is the same in both, and each of them is used.
func TestDocumentsShareSchemas(t *testing.T) {
	schemas := map[string]map[string]any{}
	for name, text := range documents {
		var root any
		if err := json.Unmarshal([]byte(text), &root); err != nil {
			t.Fatal(err)
		}
		schemas[name] = find(root, "#/components/schemas").(map[string]any)
		for schema := range schemas[name] {
			if !strings.Contains(text, `"#/components/schemas/`+schema+`"`) && !strings.HasPrefix(schema, "ProblemNotFound") && !strings.HasPrefix(schema, "ProblemMethodNotAllowed") {
				t.Errorf("%s: nothing refers to %s", name, schema)
			}
		}
	}
	shared := 0
	for name, schema := range schemas["asyncapi.json"] {
		other, ok := schemas["openapi.json"][name]
		if !ok {
			continue
		}
		if shared++; !reflect.DeepEqual(schema, other) {
			t.Errorf("%s is %v in asyncapi.json, but %v in openapi.json", name, schema, other)
		}
	}
	if shared < 5 {
		t.Errorf("%d schemas are in both", shared)
	}
}

// walk calls visit with each object in v.
func walk(v any, visit func(map[string]any)) {
	switch v := v.(type) {
	case []any:
		for _, one := range v {
			walk(one, visit)
		}
	case map[string]any:
		visit(v)
		for _, one := range v {
			walk(one, visit)
		}
	}
}

// find returns what a reference in root leads to, or nil.
func find(root any, ref string) any {
	for key := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		object, _ := root.(map[string]any)
		root = object[key]
	}
	return root
}

func TestServe(t *testing.T) {
	for name, text := range documents {
		ask := func(method string, header ...string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(method, "/"+name, nil)
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			w := httptest.NewRecorder()
			Serve(text)(w, r)
			return w
		}
		w := ask(http.MethodGet)
		h := w.Header()
		if w.Code != http.StatusOK || w.Body.String() != text || h.Get("Content-Type") != "application/json" || h.Get("Cache-Control") != "no-cache" ||
			h.Get("Access-Control-Allow-Origin") != "*" || h.Get("Cross-Origin-Resource-Policy") != "cross-origin" || len(h.Get("ETag")) != 18 {
			t.Errorf("GET %s: %d %v", name, w.Code, h)
		}
		if w := ask(http.MethodHead); w.Code != http.StatusOK || w.Body.Len() > 0 || w.Header().Get("ETag") != h.Get("ETag") {
			t.Errorf("HEAD %s: %d %v", name, w.Code, w.Header())
		}
		if w := ask(http.MethodGet, "If-None-Match", h.Get("ETag")); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
			t.Errorf("GET %s again: %d", name, w.Code)
		}
	}
	if etag := func(text string) string {
		w := httptest.NewRecorder()
		Serve(text)(w, httptest.NewRequest(http.MethodGet, "/", nil))
		return w.Header().Get("ETag")
	}; etag(OpenAPI) == etag(AsyncAPI) {
		t.Error("both have one tag")
	}
}
