package process

import (
	"bufio"
	"os/exec"
	"testing"
	"time"
)

// shell starts commands, and returns when they have printed a line.
func shell(t *testing.T, commands string) *Process {
	t.Helper()
	cmd := exec.Command("sh", "-c", commands) //nolint:noctx // ends with the test
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if _, err := bufio.NewReader(output).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestStopWaitsUntilTheProgramHasEnded(t *testing.T) {
	p := shell(t, `trap "exit 3" TERM; echo ready; while :; do sleep 0.01; done`)
	if !p.Stop(time.Minute) || p.State().ExitCode() != 3 {
		t.Errorf("it ended with %v, want an end by itself with 3", p.State())
	}
	if !p.Stop(time.Minute) {
		t.Error("a program that has ended was killed")
	}
}

func TestStopKillsAProgramThatDoesNotEnd(t *testing.T) {
	p := shell(t, `trap "" TERM; echo ready; while :; do sleep 0.01; done`)
	if p.Stop(20*time.Millisecond) || p.State().ExitCode() != -1 {
		t.Errorf("it ended with %v, want a kill", p.State())
	}
}

func TestKillEndsAProgramThatIsPaused(t *testing.T) {
	p := shell(t, `echo ready; while :; do sleep 0.01; done`)
	p.Pause()
	p.Kill()
	if p.State().ExitCode() != -1 {
		t.Errorf("it ended with %v, want a kill", p.State())
	}
	p.Kill()
	p.Continue() // does nothing
}

func TestStartFailsForAMissingProgram(t *testing.T) {
	if p, err := Start(exec.Command("/missing")); err == nil { //nolint:noctx // does not start
		t.Errorf("it runs as process %d", p.ID())
	}
}
