// Command schemas makes the schemas against which the tests of test/deploy check
// the manifests of deploy/k8s. Run it in the root of the repository, after
// changing a version below or needing another kind:
//
//	go run ./test/deploy/schemas
//
// Its sources are Go modules, so it needs nothing but the module proxy: the API
// description of Kubernetes, and the custom resources of the Gateway API and of the
// Prometheus Operator.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	kubernetes = "k8s.io/kubernetes@v1.34.2"
	gateway    = "sigs.k8s.io/gateway-api@v1.4.0"
	prometheus = "github.com/prometheus-operator/prometheus-operator@v0.85.0"

	// output is where the tests look.
	output = "test/deploy/testdata/schemas.json"
)

// kinds are what deploy/k8s has, by API version and kind.
var kinds = []string{
	"v1/ConfigMap", "v1/Namespace", "v1/Service", "v1/ServiceAccount",
	"apps/v1/Deployment", "autoscaling/v2/HorizontalPodAutoscaler",
	"networking.k8s.io/v1/NetworkPolicy", "policy/v1/PodDisruptionBudget",
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "schemas:", err)
		os.Exit(1)
	}
}

// file is what is written: a schema for each kind, and what they refer to.
type file struct {
	Sources     []string       `json:"sources"`
	Kinds       map[string]any `json:"kinds"`
	Definitions map[string]any `json:"definitions"`
}

func run() error {
	f := file{Sources: []string{kubernetes, gateway, prometheus}, Kinds: map[string]any{}, Definitions: map[string]any{}}
	if err := f.addKubernetes(); err != nil {
		return err
	}
	if err := f.addResource(gateway, "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml", "gateway.networking.k8s.io/v1/HTTPRoute"); err != nil {
		return err
	}
	if err := f.addResource(prometheus, "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml", "monitoring.coreos.com/v1/PodMonitor"); err != nil {
		return err
	}
	return os.WriteFile(output, f.format(), 0o644)
}

// moduleFile reads a file of a module, which is downloaded unless it is there.
func moduleFile(module, name string) ([]byte, error) {
	out, err := exec.CommandContext(context.Background(), "go", "mod", "download", "-json", module).Output()
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", module, err)
	}
	var info struct{ Dir string }
	if err := json.Unmarshal(out, &info); err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(info.Dir, name))
}

// addKubernetes adds the kinds of Kubernetes, and all that they refer to.
func (f *file) addKubernetes() error {
	data, err := moduleFile(kubernetes, "api/openapi-spec/swagger.json")
	if err != nil {
		return err
	}
	var spec struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return err
	}
	var need func(name string)
	need = func(name string) {
		if f.Definitions[name] != nil {
			return
		}
		schema := trim(spec.Definitions[name])
		f.Definitions[name] = schema
		for _, ref := range references(schema) {
			need(ref)
		}
	}
	for name, definition := range spec.Definitions {
		for _, kind := range namesOf(definition) {
			if slices.Contains(kinds, kind) {
				f.Kinds[kind] = map[string]any{"$ref": name}
				need(name)
			}
		}
	}
	if len(f.Kinds) != len(kinds) {
		return errors.New("not every kind was found")
	}
	return nil
}

// namesOf are the API versions and kinds that a definition is for.
func namesOf(definition map[string]any) []string {
	list, _ := definition["x-kubernetes-group-version-kind"].([]any)
	var names []string
	for _, item := range list {
		gvk, _ := item.(map[string]any)
		names = append(names, strings.TrimPrefix(fmt.Sprintf("%v/%v/%v", gvk["group"], gvk["version"], gvk["kind"]), "/"))
	}
	return names
}

// addResource adds a custom resource, version v1 of a definition in a module's file.
func (f *file) addResource(module, name, kind string) error {
	data, err := moduleFile(module, name)
	if err != nil {
		return err
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Name   string
				Schema struct {
					OpenAPIV3Schema map[string]any `yaml:"openAPIV3Schema"`
				}
			}
		}
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		return err
	}
	for _, version := range crd.Spec.Versions {
		if version.Name == "v1" {
			schema, _ := trim(version.Schema.OpenAPIV3Schema).(map[string]any)
			properties, _ := schema["properties"].(map[string]any)
			delete(properties, "status") // nobody writes it into a manifest
			properties["metadata"] = map[string]any{"$ref": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
			f.Kinds[kind] = schema
			return nil
		}
	}
	return fmt.Errorf("no v1 of %s", kind)
}

// kept are the keywords that the tests know.
var kept = []string{
	"$ref", "additionalProperties", "enum", "items", "maxItems", "maxLength", "minItems", "minLength",
	"pattern", "properties", "required", "type",
}

// trim drops what the tests do not look at, and closes objects: what a schema
// does not name is a mistake.
func trim(value any) any {
	schema, ok := value.(map[string]any)
	if !ok {
		return value
	}
	slim := map[string]any{}
	for _, key := range kept {
		switch inner := schema[key].(type) {
		case nil:
		case string:
			slim[key] = strings.TrimPrefix(inner, "#/definitions/")
		case map[string]any:
			if key != "properties" {
				slim[key] = trim(inner)
				continue
			}
			properties := map[string]any{}
			for name, property := range inner {
				properties[name] = trim(property)
			}
			slim[key] = properties
		default:
			slim[key] = inner
		}
	}
	if schema["format"] == "int-or-string" || schema["x-kubernetes-int-or-string"] == true {
		return map[string]any{"type": "int-or-string"}
	}
	if slim["properties"] != nil && slim["additionalProperties"] == nil {
		slim["additionalProperties"] = false
	}
	return slim
}

// references are the names that a schema refers to.
func references(value any) []string {
	var refs []string
	switch v := value.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			refs = append(refs, ref)
		}
		for _, inner := range v {
			refs = append(refs, references(inner)...)
		}
	case []any:
		for _, inner := range v {
			refs = append(refs, references(inner)...)
		}
	}
	return refs
}

// format writes one definition a line, for differences that can be read.
func (f *file) format() []byte {
	var b strings.Builder
	line := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			panic(err) // of maps and strings
		}
		return string(text)
	}
	section := func(name string, of map[string]any) {
		fmt.Fprintf(&b, "%q:{", name)
		keys := make([]string, 0, len(of))
		for key := range of {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for i, key := range keys {
			if i > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(&b, "\n%q:%s", key, line(of[key]))
		}
		b.WriteString("\n}")
	}
	fmt.Fprintf(&b, "{\"sources\":%s,\n", line(f.Sources))
	section("kinds", f.Kinds)
	b.WriteString(",\n")
	section("definitions", f.Definitions)
	b.WriteString("}\n")
	return []byte(b.String())
}
