package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// defaults are variables of the file, such as ${PRESENCE_PORT:-8080}.
var defaults = regexp.MustCompile(`\$\{\w+:-([^}]*)\}`)

// compose reads docker-compose.yml with the defaults of its variables.
func compose(t *testing.T) object {
	t.Helper()
	return decode(t, defaults.ReplaceAllString(read(t, "docker-compose.yml"), "$1"))[0]
}

// TestCompose checks what no engine's client reports.
func TestCompose(t *testing.T) {
	file := compose(t)
	for section := range file {
		// docker-compose 1.29 refuses name and takes no notice of configs.
		if !slices.Contains([]string{"services", "networks", "volumes", "secrets"}, section) && !strings.HasPrefix(section, "x-") {
			t.Errorf("a section %s, which not every docker-compose knows", section)
		}
	}
	services := valueOf[object](file["services"])
	replicas := 0
	for name, service := range services {
		checkService(t, file, name, valueOf[object](service))
		if at(service, "build") == nil {
			continue
		}
		replicas++
		env := map[string]string{}
		for variable, value := range valueOf[object](at(service, "environment")) {
			env[variable] = fmt.Sprint(value)
		}
		config := configure(t, env)
		if config.RedisURL == "" {
			t.Errorf("%s: replicas would each have a store of their own", name)
		}
		grace, err := time.ParseDuration(fmt.Sprint(at(service, "stop_grace_period")))
		if err != nil || grace < config.ShutdownTimeout+5*time.Second {
			t.Errorf("%s: killed %v after the request to stop, while -shutdown-timeout is %v", name, grace, config.ShutdownTimeout)
		}
		if check := fmt.Sprint(at(service, "healthcheck", "test")); check != "[CMD /server -healthcheck]" {
			t.Errorf("%s: health check %s", name, check)
		}
		if n := valueOf[int](at(service, "deploy", "replicas")); n < 2 {
			t.Errorf("%s: %d replicas", name, n)
		}
	}
	if replicas != 1 {
		t.Errorf("%d services are built here, want the server alone", replicas)
	}
}

// checkService checks one service by itself.
func checkService(t *testing.T, file object, name string, service object) {
	t.Helper()
	if service["read_only"] != true {
		t.Errorf("%s may write to its disk", name)
	}
	if fmt.Sprint(service["cap_drop"]) != "[ALL]" || !strings.Contains(fmt.Sprint(service["security_opt"]), "no-new-privileges:true") {
		t.Errorf("%s has rights that it does not need", name)
	}
	ports := valueOf[[]any](service["ports"])
	watching := fmt.Sprint(service["profiles"]) == "[observability]"
	if balancer := strings.HasPrefix(fmt.Sprint(service["image"]), "haproxy:"); (balancer || watching) != (len(ports) > 0) {
		t.Errorf("%s publishes %v; only the balancer is to, and what is asked for by a profile", name, ports)
	}
	for _, port := range ports {
		if !strings.HasPrefix(fmt.Sprint(port), "127.0.0.1:") {
			t.Errorf("%s publishes %v to everybody", name, port)
		}
	}
	for _, network := range valueOf[[]any](service["networks"]) {
		if _, ok := valueOf[object](file["networks"])[fmt.Sprint(network)]; !ok {
			t.Errorf("%s is in the network %v, which there is not", name, network)
		}
	}
	for _, volume := range valueOf[[]any](service["volumes"]) {
		source, rest, _ := strings.Cut(fmt.Sprint(volume), ":")
		if strings.HasPrefix(source, ".") {
			if _, err := os.Stat(filepath.Join(root, source)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !strings.HasSuffix(rest, ":ro") {
				t.Errorf("%s could change %s", name, source)
			}
		} else if _, ok := valueOf[object](file["volumes"])[source]; !ok {
			t.Errorf("%s has the volume %s, which there is not", name, source)
		}
	}
	for other := range valueOf[object](service["depends_on"]) {
		if at(file, "services", other) == nil {
			t.Errorf("%s waits for %s, which there is not", name, other)
		}
	}
	// Only where an internal network is left out can anything come in or go out.
	if strings.HasPrefix(fmt.Sprint(service["image"]), "redis:") && service["network_mode"] != "none" {
		for _, network := range valueOf[[]any](service["networks"]) {
			if at(file, "networks", fmt.Sprint(network), "internal") != true {
				t.Errorf("%s is in the network %v, which is not internal", name, network)
			}
		}
	}
}

// TestComposeByDocker has Docker's client check the file, if one with compose is
// installed.
func TestComposeByDocker(t *testing.T) {
	for _, client := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if said, err := command(t, 10*time.Second, root, nil, client[0], append(client[1:], "version")...); err != nil {
			t.Logf("%s: %v %s", strings.Join(client, " "), err, strings.TrimSpace(said))
			continue
		}
		for _, profile := range []string{"", "observability"} {
			if said, err := command(t, 30*time.Second, root, []string{"COMPOSE_PROFILES=" + profile}, client[0], append(client[1:], "config", "-q")...); err != nil {
				t.Errorf("%s config with profile %q: %v\n%s", strings.Join(client, " "), profile, err, said)
			}
		}
		return
	}
	t.Skip("neither docker compose nor docker-compose is installed")
}
