package deploy

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"presence/internal/app"
)

// root is the path of the repository.
const root = "../.."

// read returns a file of the repository.
func read(t testing.TB, elem ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{root}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// object is a YAML mapping.
type object = map[string]any

// decode reads the documents of a YAML file. A key that comes twice is an error.
func decode(t testing.TB, text string) []object {
	t.Helper()
	var all []object
	decoder := yaml.NewDecoder(strings.NewReader(text))
	for {
		var document object
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if document != nil {
			all = append(all, document)
		}
	}
}

// at follows keys and indices, and returns nil where there is nothing.
func at(value any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			value = valueOf[object](value)[step]
		case int:
			list := valueOf[[]any](value)
			if step >= len(list) {
				return nil
			}
			value = list[step]
		}
	}
	return value
}

// valueOf returns value as a T, or the zero T if it has another type.
func valueOf[T any](value any) T {
	v, _ := value.(T)
	return v
}

// command runs a program in a folder, with env added to the environment, and
// returns what it said.
func command(t testing.TB, limit time.Duration, dir string, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var said bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, app.EnvPrefix) }), env...)
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	return said.String(), err
}

// configure applies environment variables as the server does, and fails the test
// for one that is no setting, or whose value the server would refuse.
func configure(t testing.TB, env map[string]string) app.Config {
	t.Helper()
	config := app.Default()
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	config.Flags(flags)
	names := map[string]string{}
	flags.VisitAll(func(f *flag.Flag) { names[app.EnvName(f.Name)] = f.Name })
	for variable, value := range env {
		if !strings.HasPrefix(variable, app.EnvPrefix) {
			continue
		}
		name, ok := names[variable]
		if !ok {
			t.Errorf("%s is no setting of the server", variable)
			continue
		}
		if err := flags.Set(name, value); err != nil {
			t.Errorf("%s=%s: %v", variable, value, err)
		}
	}
	if err := config.Validate(); err != nil {
		t.Errorf("the server would refuse its environment: %v", err)
	}
	return config
}
