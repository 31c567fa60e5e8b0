package deploy

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// schemas are what testdata/schemas.json holds.
type schemas struct {
	Kinds       map[string]object
	Definitions map[string]object
}

func loadSchemas(t testing.TB) *schemas {
	t.Helper()
	text, err := os.ReadFile("testdata/schemas.json")
	if err != nil {
		t.Fatal(err)
	}
	s := &schemas{}
	if err := json.Unmarshal(text, s); err != nil {
		t.Fatal(err)
	}
	return s
}

// check returns what is wrong with a manifest, by the schema of its kind.
func (s *schemas) check(manifest object) []string {
	name := fmt.Sprintf("%v/%v", manifest["apiVersion"], manifest["kind"])
	schema, ok := s.Kinds[name]
	if !ok {
		return []string{"there is no schema for " + name + ": add it to schemas/main.go"}
	}
	return s.problems("", manifest, schema)
}

// problems returns what is wrong with the value at path. It knows the keywords
// that schemas/main.go keeps.
func (s *schemas) problems(path string, value any, schema object) []string {
	if ref, ok := schema["$ref"].(string); ok {
		return s.problems(path, value, s.Definitions[ref])
	}
	fail := func(format string, args ...any) []string {
		return []string{strings.TrimPrefix(path, ".") + ": " + fmt.Sprintf(format, args...)}
	}
	if kind, ok := schema["type"].(string); ok && !isA(value, kind) {
		return fail("%v (%T) is no %s", value, value, kind)
	}
	if allowed, ok := schema["enum"].([]any); ok && !slices.Contains(allowed, value) {
		return fail("%v is none of %v", value, allowed)
	}
	switch value := value.(type) {
	case object:
		return s.objectProblems(path, value, schema, fail)
	case []any:
		if n := float64(len(value)); n < number(schema, "minItems", 0) || n > number(schema, "maxItems", n) {
			return fail("%v items", n)
		}
		items := valueOf[object](schema["items"])
		var all []string
		for i, item := range value {
			all = append(all, s.problems(fmt.Sprintf("%s[%d]", path, i), item, items)...)
		}
		return all
	case string:
		if n := float64(utf8.RuneCountInString(value)); n < number(schema, "minLength", 0) || n > number(schema, "maxLength", n) {
			return fail("%v characters", n)
		}
		if pattern, ok := schema["pattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(value) {
			return fail("%q does not match %s", value, pattern)
		}
	}
	return nil
}

func (s *schemas) objectProblems(path string, value, schema object, fail func(string, ...any) []string) []string {
	var all []string
	for _, name := range valueOf[[]any](schema["required"]) {
		if value[fmt.Sprint(name)] == nil {
			all = append(all, fail("%v is missing", name)...)
		}
	}
	known := valueOf[object](schema["properties"])
	others, open := schema["additionalProperties"].(object)
	for name, inner := range value {
		switch property := valueOf[object](known[name]); {
		case property != nil:
			all = append(all, s.problems(path+"."+name, inner, property)...)
		case open:
			all = append(all, s.problems(path+"."+name, inner, others)...)
		case schema["additionalProperties"] == false:
			all = append(all, fail("there is no field %s", name)...)
		}
	}
	return all
}

// isA reports whether a value from YAML has a JSON type.
func isA(value any, kind string) bool {
	switch v := value.(type) {
	case object:
		return kind == "object"
	case []any:
		return kind == "array"
	case string:
		return kind == "string" || kind == "int-or-string"
	case bool:
		return kind == "boolean"
	case int:
		return kind == "integer" || kind == "number" || kind == "int-or-string"
	case float64:
		return kind == "number" || kind == "integer" && v == math.Trunc(v)
	default:
		return false
	}
}

// number is a keyword's value, or otherwise.
func number(schema object, keyword string, otherwise float64) float64 {
	if n, ok := schema[keyword].(float64); ok {
		return n
	}
	return otherwise
}

// TestSchemasFindMistakes plants mistakes that a manifest is likely to have.
func TestSchemasFindMistakes(t *testing.T) {
	s := loadSchemas(t)
	deployment := read(t, "deploy/k8s/base/deployment.yaml")
	for _, c := range []struct{ name, old, new, want string }{
		{"misspelt", "maxUnavailable:", "maxUnavalable:", "there is no field maxUnavalable"},
		{"text for a number", "containerPort: 8080", `containerPort: "8080"`, "is no integer"},
		{"missing", "  selector:\n    matchLabels: { app.kubernetes.io/name: presence }\n  template", "  template", "selector is missing"},
		{"a level too high", "      terminationGracePeriodSeconds: 45\n", "  terminationGracePeriodSeconds: 45\n", "template: there is no field termination"},
		{"other version", "apps/v1", "apps/v1beta1", "no schema"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(deployment, c.old, c.new, 1)
			if c.name == "a level too high" {
				text = strings.Replace(deployment, "    metadata: {}\n", "    metadata: {}\n    terminationGracePeriodSeconds: 45\n", 1)
			}
			got := strings.Join(s.check(decode(t, text)[0]), "\n")
			if text == deployment || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
