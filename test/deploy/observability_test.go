package deploy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"presence/internal/app"
	"presence/internal/redistest"
)

// observability is the folder of the rules and the dashboard.
const observability = "deploy/observability"

// alerts lists the alerts of the rules by name.
func alerts(t *testing.T) map[string]object {
	t.Helper()
	found := map[string]object{}
	for _, group := range valueOf[[]any](decode(t, read(t, observability, "rules.yml"))[0]["groups"]) {
		for _, rule := range valueOf[[]any](at(group, "rules")) {
			name := fmt.Sprint(at(rule, "alert"))
			if found[name] != nil {
				t.Errorf("%s is there twice", name)
			}
			found[name] = valueOf[object](rule)
		}
	}
	if len(found) < 10 {
		t.Fatalf("only %d alerts", len(found))
	}
	return found
}

// panel is a panel of the dashboard.
type panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	GridPos     struct{ X, Y, W, H int }
	Targets     []struct{ Expr string }
}

func panels(t *testing.T) []panel {
	t.Helper()
	var dashboard struct {
		UID        string
		Panels     []panel
		Templating struct {
			List []struct{ Name, Type, Query string }
		}
	}
	text := read(t, observability, "grafana/dashboards/presence.json")
	if err := json.Unmarshal([]byte(text), &dashboard); err != nil {
		t.Fatal(err)
	}
	source := dashboard.Templating.List
	if dashboard.UID == "" || len(source) != 1 || source[0].Type != "datasource" || source[0].Query != "prometheus" {
		t.Errorf("the dashboard has no uid, or no source of data: %+v", source)
	}
	for _, use := range regexp.MustCompile(`"uid": "\$\{(\w+)\}"`).FindAllStringSubmatch(text, -1) {
		if use[1] != source[0].Name {
			t.Errorf("a panel takes its data from %s", use[1])
		}
	}
	return dashboard.Panels
}

func TestRules(t *testing.T) {
	promtool := redistest.Tool(t, "promtool")
	folder := filepath.Join(root, observability)
	for _, args := range [][]string{{"check", "rules", "rules.yml"}, {"test", "rules", "rules_test.yml"}, {"check", "config", "prometheus.yml"}} {
		if said, err := command(t, time.Minute, folder, nil, promtool, args...); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, said)
		}
	}
}

// TestAlertsAreTestedAndHaveASection checks that every alert has a test, and a section of
// the manual that says what to do.
func TestAlertsAreTestedAndHaveASection(t *testing.T) {
	manual, tests := read(t, "docs/operations.md"), read(t, observability, "rules_test.yml")
	for name, rule := range alerts(t) {
		if !regexp.MustCompile(`alertname: ` + name + `\n\s+exp_alerts:\n\s+- `).MatchString(tests) {
			t.Errorf("no test in which %s fires", name)
		}
		if !strings.Contains(manual, "\n### "+name+"\n") {
			t.Errorf("docs/operations.md has no section ### %s", name)
		}
		if link := at(rule, "annotations", "runbook"); link != "docs/operations.md#"+strings.ToLower(name) {
			t.Errorf("%s links to %v", name, link)
		}
		if severity := at(rule, "labels", "severity"); severity != "critical" && severity != "warning" {
			t.Errorf("%s is %v", name, severity)
		}
	}
	for _, heading := range regexp.MustCompile(`(?m)^### (Presence\w+)$`).FindAllStringSubmatch(manual, -1) {
		if alerts(t)[heading[1]] == nil {
			t.Errorf("docs/operations.md has a section for %s, which there is not", heading[1])
		}
	}
}

func TestDashboard(t *testing.T) {
	ids, taken := map[int]bool{}, map[[2]int]string{}
	var rules strings.Builder
	rules.WriteString("groups:\n- name: panels\n  rules:\n")
	for _, p := range panels(t) {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" || at[0] >= 24 {
					t.Fatalf("%s lies over %q at %v", p.Title, other, at)
				}
				taken[at] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("%s says nothing, or shows nothing", p.Title)
		}
		for i, target := range p.Targets {
			expr, err := json.Marshal(strings.ReplaceAll(target.Expr, "$__rate_interval", "1m"))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&rules, "  - { record: 'panel_%d_%d', expr: %s }\n", p.ID, i, expr)
		}
	}
	file := filepath.Join(t.TempDir(), "panels.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := command(t, time.Minute, root, nil, redistest.Tool(t, "promtool"), "check", "rules", file); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}

// TestObservabilityIsWired follows the ways between the services of the profile.
func TestObservabilityIsWired(t *testing.T) {
	file := compose(t)
	scrape := decode(t, read(t, observability, "prometheus.yml"))[0]
	job := at(scrape, "scrape_configs", 0)
	found := at(job, "dns_sd_configs", 0)
	service := fmt.Sprint(at(found, "names", 0))
	if at(file, "services", service, "build") == nil || at(job, "job_name") != "presence" {
		t.Errorf("the job %v watches %s, which is no replica", at(job, "job_name"), service)
	}
	if admin := at(file, "services", service, "environment", "PRESENCE_ADMIN_LISTEN"); admin != fmt.Sprintf(":%v", at(found, "port")) {
		t.Errorf("Prometheus asks port %v of replicas that have their metrics at %v", at(found, "port"), admin)
	}
	network := false
	for _, name := range valueOf[[]any](at(file, "services", "prometheus", "networks")) {
		network = network || slices.Contains(valueOf[[]any](at(file, "services", service, "networks")), name)
	}
	if !network {
		t.Error("Prometheus is in no network of the replicas")
	}
	source := at(decode(t, read(t, observability, "grafana/provisioning/datasources/prometheus.yml"))[0], "datasources", 0)
	if at(source, "url") != "http://prometheus:9090" || at(source, "type") != "prometheus" {
		t.Errorf("Grafana asks %v", source)
	}
	provider := at(decode(t, read(t, observability, "grafana/provisioning/dashboards/presence.yml"))[0], "providers", 0)
	dashboards := fmt.Sprint(at(provider, "options", "path"))
	mounted := false
	for _, volume := range valueOf[[]any](at(file, "services", "grafana", "volumes")) {
		mounted = mounted || volume == "./"+observability+"/grafana/dashboards:"+dashboards+":ro"
	}
	home := fmt.Sprint(at(file, "services", "grafana", "environment", "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"))
	if !mounted || filepath.Dir(home) != dashboards {
		t.Errorf("the dashboards of %s are not where Grafana looks (%s)", dashboards, home)
	}
}

// exposed returns the metrics of a server that has just started: the labels of each
// series, by name.
func exposed(t *testing.T) map[string][]map[string]string {
	t.Helper()
	config := app.Default()
	config.Listen, config.AdminListen, config.ShutdownTimeout = "127.0.0.1:0", "127.0.0.1:0", time.Second
	server, err := app.New(config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	var text string
	redistest.Eventually(t, 5*time.Second, "the server tells its metrics", func() bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+server.AdminAddr()+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Close = true
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		text = string(body)
		return err == nil && strings.Contains(text, `presence_redis_up{node="embedded"} 1`)
	})
	series := map[string][]map[string]string{}
	for line := range strings.Lines(text) {
		if found := metric.FindStringSubmatch(line); found != nil && !strings.HasPrefix(line, "#") {
			labels := map[string]string{}
			for _, m := range matcher.FindAllStringSubmatch(found[2], -1) {
				labels[m[1]] = m[3]
			}
			series[found[1]] = append(series[found[1]], labels)
		}
	}
	return series
}

var (
	// metric is the name of a metric of ours or of the process, perhaps with labels.
	metric  = regexp.MustCompile(`\b((?:presence|process|go)_[a-z0-9_]*[a-z0-9])\b(?:\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\})?`)
	matcher = regexp.MustCompile(`(\w+)(=~|!=|!~|=)"([^"]*)"`)
	code    = regexp.MustCompile("`([^`\n]+)`")
)

// scraped are labels that Prometheus adds.
var scraped = []string{"job", "instance"}

// TestMetricsExist fails unless every metric in rules, dashboard and manual is one of a
// server's, with the labels and values that they use.
func TestMetricsExist(t *testing.T) {
	texts := map[string]string{}
	for name, rule := range alerts(t) {
		texts["alert "+name] = fmt.Sprint(rule["expr"])
	}
	for _, p := range panels(t) {
		for _, target := range p.Targets {
			texts["panel "+p.Title] += target.Expr + "\n"
		}
	}
	for _, file := range []string{"docs/operations.md", "README.md", "deploy/README.md", "CHANGELOG.md"} {
		for _, quoted := range code.FindAllStringSubmatch(read(t, file), -1) {
			texts[file] += quoted[1] + "\n"
		}
	}
	series := exposed(t)
	names := 0
	for where, text := range texts {
		for _, found := range metric.FindAllStringSubmatch(text, -1) {
			name := found[1]
			if strings.HasSuffix(name, "_") || name == "go_version" {
				continue
			}
			all := series[name]
			if len(all) == 0 {
				all = series[name+"_count"] // a histogram as a whole
			}
			if len(all) == 0 {
				t.Errorf("%s names %s, which there is not", where, name)
				continue
			}
			names++
			for _, m := range matcher.FindAllStringSubmatch(found[2], -1) {
				if !slices.Contains(scraped, m[1]) && m[1] != "le" && !matches(all, m[1], m[2], m[3]) {
					t.Errorf("%s: no %s has %s", where, name, m[0])
				}
			}
		}
		for _, by := range regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`).FindAllStringSubmatch(text, -1) {
			for label := range strings.SplitSeq(by[1], ",") {
				if label = strings.TrimSpace(label); label != "" && label != "le" && !slices.Contains(scraped, label) && !isLabel(series, label) {
					t.Errorf("%s groups by %s, which no metric has", where, label)
				}
			}
		}
	}
	for _, short := range regexp.MustCompile("`[^`\n]*?\\b([a-z_]+)\\{[a-z]").FindAllStringSubmatch(read(t, "docs/operations.md"), -1) {
		if len(series[short[1]]) == 0 && len(series[short[1]+"_count"]) == 0 {
			t.Errorf("docs/operations.md names %s, which nobody can search for", short[1])
		}
	}
	if names < 60 {
		t.Errorf("only %d names found", names)
	}
}

// matches reports whether a series satisfies a matcher. Each value of an alternative must
// occur.
func matches(all []map[string]string, label, operator, want string) bool {
	values := []string{want}
	if strings.HasSuffix(operator, "~") {
		values = strings.Split(want, "|")
	}
	for _, value := range values {
		pattern := regexp.MustCompile("^(?:" + value + ")$")
		if !slices.ContainsFunc(all, func(labels map[string]string) bool {
			_, has := labels[label]
			return has && pattern.MatchString(labels[label])
		}) {
			return false
		}
	}
	return true
}

// isLabel reports whether some series has a label.
func isLabel(series map[string][]map[string]string, label string) bool {
	for _, all := range series {
		for _, labels := range all {
			if _, ok := labels[label]; ok {
				return true
			}
		}
	}
	return false
}
