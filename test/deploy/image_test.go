package deploy

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"presence/internal/redistest"
)

// instruction is one line of the Dockerfile, with what it continues on.
type instruction struct {
	name string // such as COPY
	args string
}

// dockerfile reads the Dockerfile.
func dockerfile(t *testing.T) []instruction {
	t.Helper()
	var list []instruction
	var open string
	for line := range strings.Lines(read(t, "deploy/Dockerfile")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if rest, ok := strings.CutSuffix(line, `\`); ok {
			open += strings.TrimSpace(rest) + " "
			continue
		}
		name, args, _ := strings.Cut(open+line, " ")
		list = append(list, instruction{name, strings.TrimSpace(args)})
		open = ""
	}
	return list
}

// TestDockerfile checks what a build does not complain about.
func TestDockerfile(t *testing.T) {
	if regexp.MustCompile(`(?mi)^#\s*syntax\s*=`).MatchString(read(t, "deploy/Dockerfile")) {
		t.Error("a syntax line makes the builder download its own front end")
	}
	list := dockerfile(t)
	last := 0
	for i, step := range list {
		if step.name == "FROM" {
			last = i
		}
	}
	final := map[string]string{}
	for _, step := range list[last:] {
		final[step.name] = step.args
	}
	if user, _, _ := strings.Cut(final["USER"], ":"); user == "" || user == "0" || user == "root" {
		t.Errorf("the image runs as %q", final["USER"])
	}
	if final["RUN"] != "" {
		t.Error("the last stage runs something, and has no shell")
	}
	if !strings.HasSuffix(final["HEALTHCHECK"], `CMD ["/server", "-healthcheck"]`) {
		t.Errorf("health check %q", final["HEALTHCHECK"])
	}
	if final["ENTRYPOINT"] != `["/server"]` || final["STOPSIGNAL"] != "SIGTERM" {
		t.Errorf("starts with %s, ends with %s", final["ENTRYPOINT"], final["STOPSIGNAL"])
	}
	want := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	if !slices.Contains(list, instruction{"ARG", "GO_VERSION=" + want}) {
		t.Errorf("go.mod wants Go %s, the image is built with another", want)
	}
}

// TestImageBuilds executes the Dockerfile step by step. It uses a folder for each stage
// instead of a container, and only the files that the builder would get. So it also finds
// a file that is not copied.
func TestImageBuilds(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the server")
	}
	redistest.Tool(t, "npm")
	b := &builder{t: t, context: buildContext(t), env: []string{
		"npm_config_prefer_offline=true", "npm_config_audit=false", "npm_config_fund=false", "npm_config_update_notifier=false",
	}, stages: map[string]string{}}
	for _, step := range dockerfile(t) {
		b.do(step)
	}
	server := filepath.Join(b.stage, "server")
	binary, err := elf.Open(server)
	switch {
	case errors.As(err, new(*elf.FormatError)):
		t.Log("not built for Linux: nothing to say of how it is linked")
	case err != nil:
		t.Fatal(err)
	default:
		defer func() { _ = binary.Close() }()
		for _, part := range binary.Progs {
			if part.Type == elf.PT_INTERP || part.Type == elf.PT_DYNAMIC {
				t.Errorf("the server is linked dynamically (%v), and the image has no libraries", part.Type)
			}
		}
	}
	said, err := command(t, 10*time.Second, b.stage, nil, server, "-help")
	if err != nil || !strings.Contains(said, "-redis-url") {
		t.Errorf("server -help: %v\n%s", err, said)
	}
	// The assets are in it, or pages would load them from elsewhere.
	text, err := os.ReadFile(server)
	if err != nil {
		t.Fatal(err)
	}
	asset, err := os.ReadFile(filepath.Join(b.stages["assets"], "web/dist/pico.css"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), string(asset)) {
		t.Error("the browser assets are not in the binary")
	}
}

// builder is the state between two steps.
type builder struct {
	t       *testing.T
	context string   // folder of the files to build from
	env     []string // of commands
	stages  map[string]string
	stage   string // folder of the present stage
	dir     string // working directory in it
}

// do does one step.
func (b *builder) do(step instruction) {
	b.t.Helper()
	switch step.name {
	case "FROM":
		b.stage, b.dir = b.t.TempDir(), "/"
		if fields := strings.Fields(step.args); len(fields) == 3 {
			b.stages[fields[2]] = b.stage
		}
	case "WORKDIR":
		b.dir = step.args
		b.must(os.MkdirAll(b.inside("."), 0o750))
	case "ENV":
		b.env = append(b.env, strings.Fields(step.args)...)
	case "COPY":
		fields := strings.Fields(step.args)
		from := b.context
		if name, ok := strings.CutPrefix(fields[0], "--from="); ok {
			from, fields = b.stages[name], fields[1:]
		}
		target := fields[len(fields)-1]
		for _, source := range fields[:len(fields)-1] {
			b.copy(filepath.Join(from, source), source, target, len(fields) > 2)
		}
	case "RUN":
		// Results are named by their place in the stage.
		line := strings.ReplaceAll(step.args, " /out/", " "+b.stage+"/out/")
		begin := time.Now()
		if said, err := command(b.t, 5*time.Minute, b.inside("."), b.env, "sh", "-c", line); err != nil {
			b.t.Fatalf("RUN %s: %v\n%s", step.args, err, said)
		}
		b.t.Logf("%v: %s", time.Since(begin).Round(time.Millisecond), step.args)
	case "ARG", "LABEL", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT":
	default:
		b.t.Fatalf("the test does not know %s", step.name)
	}
}

// copy does what COPY does with one source.
func (b *builder) copy(from, source, target string, several bool) {
	b.t.Helper()
	info, err := os.Stat(from)
	b.must(err)
	to := b.inside(target)
	if info.IsDir() {
		b.must(os.CopyFS(to, os.DirFS(from)))
		return
	}
	if several || strings.HasSuffix(target, "/") || target == "." {
		to = filepath.Join(to, filepath.Base(source))
	}
	b.must(os.MkdirAll(filepath.Dir(to), 0o750))
	text, err := os.ReadFile(from)
	b.must(err)
	b.must(os.WriteFile(to, text, info.Mode().Perm()))
}

// inside returns the location of a path of the stage.
func (b *builder) inside(path string) string {
	if !filepath.IsAbs(path) {
		path = filepath.Join(b.dir, path)
	}
	return filepath.Join(b.stage, path)
}

func (b *builder) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// buildContext copies what .dockerignore lets through.
func buildContext(t *testing.T) string {
	t.Helper()
	var rules []rule
	for line := range strings.Lines(read(t, ".dockerignore")) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			rules = append(rules, newRule(line))
		}
	}
	folder := t.TempDir()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (name == ".git" || entry.Name() == "node_modules"):
			return filepath.SkipDir
		case !entry.Type().IsRegular() || ignored(rules, name):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		to := filepath.Join(folder, name)
		return errors.Join(os.MkdirAll(filepath.Dir(to), 0o750), os.WriteFile(to, text, 0o600))
	})
	if err != nil {
		t.Fatal(err)
	}
	return folder
}

// rule is a line of .dockerignore.
type rule struct {
	pattern *regexp.Regexp
	keep    bool
}

// newRule reads a line: * stands for anything but a slash, ** for anything, and
// a folder for all that is in it.
func newRule(line string) rule {
	name, keep := strings.CutPrefix(line, "!")
	pattern := regexp.QuoteMeta(strings.Trim(name, "/"))
	pattern = strings.NewReplacer(`\*\*/`, `(.*/)?`, `\*`, `[^/]*`).Replace(pattern)
	return rule{regexp.MustCompile("^" + pattern + "(/.*)?$"), keep}
}

// ignored reports whether a file is left out. The last rule that matches it counts.
func ignored(rules []rule, name string) bool {
	out := false
	for _, r := range rules {
		if r.pattern.MatchString(filepath.ToSlash(name)) {
			out = !r.keep
		}
	}
	return out
}

// TestOnlySourcesAreSent checks the context itself.
func TestOnlySourcesAreSent(t *testing.T) {
	folder := buildContext(t)
	var unwanted []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "bin/") || strings.Contains(name, "node_modules") {
			unwanted = append(unwanted, name)
		}
		return err
	})
	if err != nil || len(unwanted) > 0 {
		t.Errorf("the builder would get %v (%v)", unwanted, err)
	}
	if _, err := os.Stat(filepath.Join(folder, "web/dist/client.js")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(fmt.Sprint("assets that were built here go to the builder, and may be old ones: ", err))
	}
}
