package httpapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"presence/api"
	"presence/test/contract"
)

// openapi.json describes every route, and no others.
func TestRoutesAreDescribed(t *testing.T) {
	var routes []string
	New(nil, nil, Options{}).Handle(func(pattern string, _ http.HandlerFunc) { routes = append(routes, pattern) })
	described := contract.Operations()
	slices.Sort(routes)
	if slices.Sort(described); !slices.Equal(routes, described) {
		t.Errorf("routes\n%s\nopenapi.json\n%s", strings.Join(routes, "\n"), strings.Join(described, "\n"))
	}
}

// openapi.json describes every problem, and no others.
func TestProblemsAreDescribed(t *testing.T) {
	type field struct{ Const any }
	var document struct {
		Components struct {
			Schemas map[string]struct {
				Title      string
				Properties map[string]json.RawMessage
			}
		}
	}
	if err := json.Unmarshal([]byte(api.OpenAPI), &document); err != nil {
		t.Fatal(err)
	}
	schemas := document.Components.Schemas
	var codes struct{ Enum []Code }
	if err := json.Unmarshal(schemas["Problem"].Properties["code"], &codes); err != nil {
		t.Fatal(err)
	}
	if known := slices.Sorted(maps.Keys(problems)); !slices.Equal(known, slices.Sorted(slices.Values(codes.Enum))) {
		t.Errorf("codes %s, openapi.json %s", known, codes.Enum)
	}
	for code, p := range problems {
		var name strings.Builder
		name.WriteString("Problem")
		for word := range strings.SplitSeq(string(code), "_") {
			name.WriteString(strings.ToUpper(word[:1]) + word[1:])
		}
		schema := schemas[name.String()]
		got := map[string]any{"title": schema.Title}
		for _, name := range []string{"type", "status", "code", "retry"} {
			var f field
			_ = json.Unmarshal(schema.Properties[name], &f) // or else it is nil
			got[name] = f.Const
		}
		want := map[string]any{"title": p.title, "type": "urn:presence:problem:" + string(code), "status": float64(p.status), "code": string(code), "retry": p.retry}
		if !maps.Equal(got, want) {
			t.Errorf("%s is %v, want %v", &name, got, want)
		}
	}
}
