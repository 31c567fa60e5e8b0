package deploy

import "testing"

func TestOnLoopback(t *testing.T) {
	got := onLoopback(`global
  maxconn 9
resolvers docker
  nameserver dns 127.0.0.11:53
frontend public
  bind :8080 tcp-ut 9s # of a socket
backend replicas
  default-server check inter 1s resolvers docker init-addr none
  server-template replica 20 app:8080 weight 5 # as many as there are
`, "127.0.0.1:1", []string{"127.0.0.1:2", "127.0.0.1:3"})
	want := `global
  maxconn 9
frontend public
  bind 127.0.0.1:1 tcp-ut 9s
backend replicas
  default-server check inter 1s
  server replica-1 127.0.0.1:2 weight 5
  server replica-2 127.0.0.1:3 weight 5
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
