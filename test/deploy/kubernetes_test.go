package deploy

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// manifests is where they are.
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
			if manifest["kind"] == "NetworkPolicy" {
				checkRedisIsReached(t, manifest)
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

// checkKustomization finds what kustomize would not, or only where it is.
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

// checkRedisIsReached demands that pods may talk to Redis, and not to themselves
// in its place.
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

// TestRenderedManifests checks what a cluster would get.
func TestRenderedManifests(t *testing.T) {
	kubectl := tool(t, "kubectl", false)
	s := loadSchemas(t)
	for _, folder := range []string{"base", "overlays/prod"} {
		t.Run(folder, func(t *testing.T) {
			text, err := command(t, 30*time.Second, manifests, nil, kubectl, "kustomize", folder)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			got := map[string]object{}
			for _, manifest := range decode(t, text) {
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

// checkSelectors demands that all who choose pods choose those of the Deployment.
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

// checkPod demands what the promises rest on, and that nobody gets more rights
// than needed.
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

// checkListeners demands that ports are those that the server listens on, and
// that the admin listener is open to the namespace monitoring alone.
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
		t.Errorf("who may come in: %v, want %s", allowed, want)
	}
	if service := fmt.Sprint(at(got["Service"], "spec", "ports")); strings.Contains(service, "admin") || strings.Contains(service, "9090") {
		t.Error("the service carries the admin listener")
	}
}
