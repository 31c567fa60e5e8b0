package deploy

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// manifests is the folder of the manifests.
const manifests = root + "/deploy/k8s"

// TestManifests checks each file by itself, which needs no program.
func TestManifests(t *testing.T) {
	s := loadSchemas(t)
	files := 0
	err := filepath.WalkDir(manifests, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, manifest := range decode(t, string(text)) {
			if filepath.Base(path) == "kustomization.yaml" {
				checkKustomization(t, path, manifest)
				continue
			}
			for _, problem := range s.check(manifest) {
				t.Errorf("%s: %s", path, problem)
			}
			switch manifest["kind"] {
			case "NetworkPolicy":
				checkRedisIsReached(t, manifest)
			case "HTTPRoute":
				checkNoTimeLimit(t, manifest)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Fatalf("only %d files", files)
	}
}

// checkKustomization finds mistakes that kustomize finds only where it is installed, or
// not at all.
func checkKustomization(t *testing.T, path string, k object) {
	t.Helper()
	folder := filepath.Dir(path)
	var named []any
	for _, list := range []string{"resources", "components"} {
		named = append(named, valueOf[[]any](k[list])...)
	}
	for _, name := range named {
		if _, err := os.Stat(filepath.Join(folder, fmt.Sprint(name))); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	files, _ := filepath.Glob(filepath.Join(folder, "*.yaml"))
	for _, file := range files {
		if name := filepath.Base(file); name != "kustomization.yaml" && !slices.Contains(named, any(name)) {
			t.Errorf("%s does not name %s", path, name)
		}
	}
	for _, label := range valueOf[[]any](k["labels"]) {
		if at(label, "includeSelectors") == true {
			t.Errorf("%s puts labels into selectors, which rewrites those of the NetworkPolicy", path)
		}
	}
	if k["commonLabels"] != nil {
		t.Errorf("%s has commonLabels, which rewrite the selectors of the NetworkPolicy", path)
	}
}

// checkRedisIsReached fails unless pods may connect to Redis, and not to themselves
// instead.
func checkRedisIsReached(t *testing.T, policy object) {
	t.Helper()
	var peers []any
	for _, rule := range valueOf[[]any](at(policy, "spec", "egress")) {
		for _, to := range valueOf[[]any](at(rule, "to")) {
			peers = append(peers, at(to, "podSelector", "matchLabels"))
		}
	}
	want := object{"app.kubernetes.io/name": "redis"}
	if len(peers) == 0 || fmt.Sprint(peers[0]) != fmt.Sprint(want) {
		t.Errorf("egress leads to %v, want %v first", peers, want)
	}
}

// checkNoTimeLimit fails if long connections are cut because of their age: sockets, which
// have the address of their page, and event streams.
func checkNoTimeLimit(t *testing.T, route object) {
	t.Helper()
	for _, path := range []string{"/", "/rooms/lobby", "/v1/events", "/v1/rooms/lobby/events"} {
		longest, limits := "", any(nil)
		for _, rule := range valueOf[[]any](at(route, "spec", "rules")) {
			for _, match := range valueOf[[]any](at(rule, "matches")) {
				prefix := fmt.Sprint(at(match, "path", "value"))
				if at(match, "path", "type") == "PathPrefix" && strings.HasPrefix(path, prefix) && len(prefix) > len(longest) {
					longest, limits = prefix, at(rule, "timeouts")
				}
			}
		}
		if at(limits, "request") != "0s" || at(limits, "backendRequest") != nil {
			t.Errorf("%s is cut after %v", path, limits)
		}
	}
}

// kustomizeModule is what renders manifests where there is no kubectl. It comes from the
// module proxy.
const kustomizeModule = "sigs.k8s.io/kustomize/kustomize/v5@v5.4.3"

// kustomize renders a folder.
func kustomize(t *testing.T, folder string) string {
	t.Helper()
	program, args := "kubectl", []string{"kustomize", folder}
	if _, err := exec.LookPath(program); err != nil {
		if testing.Short() {
			t.Skip("kubectl is not installed, and building kustomize takes a minute")
		}
		program, args = "go", []string{"run", kustomizeModule, "build", folder}
	}
	text, err := command(t, 5*time.Minute, ".", []string{"GOFLAGS=-mod=mod"}, program, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, text)
	}
	if _, manifests, ok := strings.Cut(text, "\napiVersion:"); ok && !strings.HasPrefix(text, "apiVersion:") {
		return "apiVersion:" + manifests // without what go says of downloads
	}
	return text
}

// commands are the lines of shell that the manual gives for an overlay of one's own.
var commands = regexp.MustCompile("(?s)```sh\n(cp -r deploy/k8s/overlays/prod [^`]*)```")

// TestCopiedOverlay does what the manual says, in a copy of the repository's
// manifests, and beside it.
func TestCopiedOverlay(t *testing.T) {
	found := commands.FindStringSubmatch(read(t, "docs/operations.md"))
	if found == nil {
		t.Fatal("docs/operations.md does not say how to copy an overlay")
	}
	repository := filepath.Join(t.TempDir(), "presence")
	if err := os.CopyFS(filepath.Join(repository, "deploy/k8s"), os.DirFS(manifests)); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(repository, "deploy/k8s/overlays/mine"), os.DirFS(manifests+"/overlays/prod")); err != nil {
		t.Fatal(err)
	}
	if said, err := command(t, time.Minute, repository, nil, "sh", "-euc", found[1]); err != nil {
		t.Fatalf("%s: %v\n%s", found[1], err, said)
	}
	want := kustomize(t, filepath.Join(manifests, "overlays/prod"))
	for _, folder := range []string{"deploy/k8s/overlays/mine", "../my-presence"} {
		if got := kustomize(t, filepath.Join(repository, folder)); got != want {
			t.Errorf("%s renders something else than overlays/prod", folder)
		}
	}
}

// TestPodMonitor: with its component the Prometheus Operator finds the pods, at a
// port that is open to it, and calls the job as rules and dashboard do.
func TestPodMonitor(t *testing.T) {
	copied := filepath.Join(t.TempDir(), "k8s")
	if err := os.CopyFS(copied, os.DirFS(manifests)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(copied, "overlays/prod/kustomization.yaml")
	text := strings.Replace(read(t, "deploy/k8s/overlays/prod/kustomization.yaml"), "# - ../../components/podmonitor", "- ../../components/podmonitor", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got := map[string]object{}
	s := loadSchemas(t)
	for _, manifest := range decode(t, kustomize(t, filepath.Dir(file))) {
		got[fmt.Sprint(manifest["kind"])] = manifest
		for _, problem := range s.check(manifest) {
			t.Errorf("%v: %s", manifest["kind"], problem)
		}
	}
	monitor := got["PodMonitor"]
	labels := valueOf[object](at(got["Deployment"], "spec", "template", "metadata", "labels"))
	if job := labels[fmt.Sprint(at(monitor, "spec", "jobLabel"))]; job != "presence" {
		t.Errorf("the job is called %v, want presence", job)
	}
	for name, value := range valueOf[object](at(monitor, "spec", "selector", "matchLabels")) {
		if labels[name] != value {
			t.Errorf("the monitor wants %s=%v, pods have %v", name, value, labels[name])
		}
	}
	open := false
	for _, port := range valueOf[[]any](at(got["Deployment"], "spec", "template", "spec", "containers", 0, "ports")) {
		open = open || at(port, "name") == at(monitor, "spec", "podMetricsEndpoints", 0, "port")
	}
	if !open || at(monitor, "metadata", "namespace") != "presence" {
		t.Errorf("the monitor does not reach the pods: %v", monitor)
	}
	checkListeners(t, got)
}

// TestRenderedManifests checks what a cluster would get.
func TestRenderedManifests(t *testing.T) {
	s := loadSchemas(t)
	for _, folder := range []string{"base", "overlays/prod"} {
		t.Run(folder, func(t *testing.T) {
			got := map[string]object{}
			for _, manifest := range decode(t, kustomize(t, filepath.Join(manifests, folder))) {
				for _, problem := range s.check(manifest) {
					t.Errorf("%v: %s", manifest["kind"], problem)
				}
				kind := fmt.Sprint(manifest["kind"])
				if got[kind] != nil {
					t.Errorf("two of kind %s", kind)
				}
				got[kind] = manifest
				if kind != "Namespace" && at(manifest, "metadata", "namespace") != "presence" {
					t.Errorf("%s is not in the namespace", kind)
				}
			}
			checkRedisIsReached(t, got["NetworkPolicy"])
			checkSelectors(t, got)
			checkPod(t, got)
			checkListeners(t, got)
		})
	}
}

// checkSelectors fails unless every selector of pods selects those of the Deployment.
func checkSelectors(t *testing.T, got map[string]object) {
	t.Helper()
	labels := valueOf[object](at(got["Deployment"], "spec", "template", "metadata", "labels"))
	for what, selector := range map[string]any{
		"Deployment":          at(got["Deployment"], "spec", "selector", "matchLabels"),
		"Service":             at(got["Service"], "spec", "selector"),
		"PodDisruptionBudget": at(got["PodDisruptionBudget"], "spec", "selector", "matchLabels"),
		"NetworkPolicy":       at(got["NetworkPolicy"], "spec", "podSelector", "matchLabels"),
	} {
		chosen := valueOf[object](selector)
		if len(chosen) == 0 {
			t.Errorf("%s selects nothing", what)
		}
		for name, value := range chosen {
			if labels[name] != value {
				t.Errorf("%s selects %s=%v, pods have %v", what, name, value, labels[name])
			}
		}
	}
	if at(got["HorizontalPodAutoscaler"], "spec", "scaleTargetRef", "name") != at(got["Deployment"], "metadata", "name") {
		t.Error("the autoscaler scales something else")
	}
	if at(got["Deployment"], "spec", "replicas") != nil {
		t.Error("the Deployment has replicas, which the autoscaler is to set")
	}
}

// checkPod checks what the promises depend on, and that nobody gets more rights than
// needed.
func checkPod(t *testing.T, got map[string]object) {
	t.Helper()
	deployment := got["Deployment"]
	pod := at(deployment, "spec", "template", "spec")
	container := at(pod, "containers", 0)

	env := map[string]string{}
	for name, value := range valueOf[object](got["ConfigMap"]["data"]) {
		env[name] = fmt.Sprint(value)
	}
	for _, variable := range valueOf[[]any](at(container, "env")) {
		if value := at(variable, "value"); value != nil {
			env[fmt.Sprint(at(variable, "name"))] = fmt.Sprint(value)
		}
	}
	config := configure(t, env)
	if config.RedisURL == "" {
		t.Error("pods would each have a store of their own")
	}
	if at(container, "envFrom", 0, "configMapRef", "name") != at(got["ConfigMap"], "metadata", "name") {
		t.Error("the settings are not those of the ConfigMap")
	}
	for _, file := range []string{config.RedisPasswordFile, config.SessionSecretFile} {
		mounted := false
		for _, mount := range valueOf[[]any](at(container, "volumeMounts")) {
			mounted = mounted || filepath.Dir(file) == at(mount, "mountPath")
		}
		if !mounted {
			t.Errorf("%s is in no volume", file)
		}
	}

	sleep := time.Duration(valueOf[int](at(container, "lifecycle", "preStop", "sleep", "seconds"))) * time.Second
	grace := time.Duration(valueOf[int](at(pod, "terminationGracePeriodSeconds"))) * time.Second
	if least := sleep + config.ShutdownTimeout + 5*time.Second; sleep == 0 || grace < least {
		t.Errorf("pods are killed after %v, want %v at least", grace, least)
	}
	for path, want := range map[string]any{"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"} {
		if probe := at(container, path, "httpGet"); at(probe, "path") != want || at(probe, "port") != "http" {
			t.Errorf("%s asks %v, want %v of the port http", path, probe, want)
		}
	}
	for what, want := range map[string][2]any{
		"maxUnavailable":               {at(deployment, "spec", "strategy", "rollingUpdate", "maxUnavailable"), 0},
		"maxSurge":                     {at(deployment, "spec", "strategy", "rollingUpdate", "maxSurge"), 1},
		"runAsNonRoot":                 {at(pod, "securityContext", "runAsNonRoot"), true},
		"seccompProfile":               {at(pod, "securityContext", "seccompProfile", "type"), "RuntimeDefault"},
		"readOnlyRootFilesystem":       {at(container, "securityContext", "readOnlyRootFilesystem"), true},
		"allowPrivilegeEscalation":     {at(container, "securityContext", "allowPrivilegeEscalation"), false},
		"capabilities":                 {at(container, "securityContext", "capabilities", "drop", 0), "ALL"},
		"automountServiceAccountToken": {at(pod, "automountServiceAccountToken"), false},
		"enableServiceLinks":           {at(pod, "enableServiceLinks"), false},
	} {
		if want[0] != want[1] {
			t.Errorf("%s is %v, want %v", what, want[0], want[1])
		}
	}
}

// checkListeners fails unless the ports are those on which the server listens, and the
// admin listener is open only to the namespace monitoring.
func checkListeners(t *testing.T, got map[string]object) {
	t.Helper()
	ports := map[string]any{}
	for _, port := range valueOf[[]any](at(got["Deployment"], "spec", "template", "spec", "containers", 0, "ports")) {
		ports[fmt.Sprint(at(port, "name"))] = at(port, "containerPort")
	}
	if ports["http"] != 8080 || at(got["Service"], "spec", "ports", 0, "targetPort") != "http" {
		t.Errorf("ports %v", ports)
	}
	allowed := map[string][]string{}
	for _, rule := range valueOf[[]any](at(got["NetworkPolicy"], "spec", "ingress")) {
		for _, port := range valueOf[[]any](at(rule, "ports")) {
			for _, from := range valueOf[[]any](at(rule, "from")) {
				name := fmt.Sprint(at(port, "port"))
				allowed[name] = append(allowed[name], fmt.Sprint(at(from, "namespaceSelector", "matchLabels", "kubernetes.io/metadata.name")))
			}
		}
	}
	want := "map[http:[gateway-system]]"
	if ports["admin"] != nil {
		want = "map[admin:[monitoring] http:[gateway-system]]"
	}
	if fmt.Sprint(allowed) != want {
		t.Errorf("these may connect: %v, want %s", allowed, want)
	}
	if service := fmt.Sprint(at(got["Service"], "spec", "ports")); strings.Contains(service, "admin") || strings.Contains(service, "9090") {
		t.Error("the service carries the admin listener")
	}
}
