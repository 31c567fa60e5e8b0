package httpapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"presence/api"
	"presence/test/contract"
)

// openapi.json describes every route, and no others.
func TestRoutesAreDescribed(t *testing.T) {
	var routes []string
	New(nil, nil, Options{}).Routes(func(pattern string, _ http.HandlerFunc) { routes = append(routes, pattern) })
	described := contract.Operations()
	slices.Sort(routes)
	if slices.Sort(described); !slices.Equal(routes, described) {
		t.Errorf("routes\n%s\nopenapi.json\n%s", strings.Join(routes, "\n"), strings.Join(described, "\n"))
	}
}

// The guide lists every problem.
func TestGuideListsProblems(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (\\d+) \\| `([a-z]+)` \\|").FindAllStringSubmatch(string(text), -1)
	for _, row := range rows {
		if p := problems[Code(row[1])]; fmt.Sprint(p.status) != row[2] || p.retry != row[3] {
			t.Errorf("docs/api.md says %s, but it is %d, %s", row[0], p.status, p.retry)
		}
	}
	if len(rows) != len(problems) {
		t.Errorf("docs/api.md lists %d problems of %d", len(rows), len(problems))
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
