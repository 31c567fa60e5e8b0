// Package deploy gives programs what operators run: the same files, adapted to
// a single machine.
package deploy

import (
	_ "embed"
	"fmt"
	"strings"
)

// RedisUsers is the list of users of Redis, a template: see secrets.sh.
//
//go:embed redis/users.acl
var RedisUsers string

//go:embed haproxy/haproxy.cfg
var haproxy string

// HAProxyOnLoopback returns the configuration of HAProxy with other addresses
// and nothing else changed: what is bound becomes listen, the names that replicas
// are found by become the addresses given, and no name server is asked.
func HAProxyOnLoopback(listen string, replicas []string) string {
	return onLoopback(haproxy, listen, replicas)
}

func onLoopback(config, listen string, replicas []string) string {
	var b strings.Builder
	section := ""
	for line := range strings.Lines(config) {
		line = strings.TrimRight(line, "\n")
		code, _, _ := strings.Cut(line, "#")
		fields := strings.Fields(code)
		if len(fields) > 0 && !strings.HasPrefix(code, " ") {
			section = fields[0]
		}
		switch {
		case section == "resolvers" || len(fields) == 0:
			continue
		case fields[0] == "bind":
			line = strings.Join(append([]string{"  bind", listen}, fields[2:]...), " ")
		case fields[0] == "server-template":
			for i, replica := range replicas {
				fmt.Fprintf(&b, "  server replica-%d %s %s\n", i+1, replica, withoutLookups(fields[4:]))
			}
			continue
		case fields[0] == "default-server":
			line = "  " + withoutLookups(fields)
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// withoutLookups drops what a server line says of name servers.
func withoutLookups(fields []string) string {
	var kept []string
	for i := 0; i < len(fields); i++ {
		switch fields[i] {
		case "resolvers", "init-addr", "resolve-prefer", "resolve-opts":
			i++ // and its value
		default:
			kept = append(kept, fields[i])
		}
	}
	return strings.Join(kept, " ")
}
