package harness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"presence/internal/process"
	"presence/internal/redistest"
)

const (
	// startTimeout bounds how long a replica may take to answer.
	startTimeout = 20 * time.Second

	// stopTimeout bounds how long it may take to end when asked to: longer than
	// -shutdown-timeout by default.
	stopTimeout = 60 * time.Second

	// loggedLines is how much of its log is shown when a test has failed.
	loggedLines = 300
)

// Binary returns the path of the server, which is built once per test process.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "presence-test-")
	if err != nil {
		return "", fmt.Errorf("build the server: %w", err)
	}
	if removal, err = removeAfterwards(dir); err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("build the server: %w", err)
	}
	path := filepath.Join(dir, "server")
	cmd := exec.Command("go", "build", "-o", path, "presence/cmd/server")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	building, err := process.Start(cmd)
	if err != nil {
		return "", fmt.Errorf("build the server: %w", err)
	}
	if <-building.Ended(); !building.State().Success() {
		return "", fmt.Errorf("build the server: %v\n%s", building.State(), &output) //nolint:err113 // of a test
	}
	return path, nil
})

// removal keeps a shell waiting that removes the folder of the binary when this process has
// ended, in any way: no test knows that it is the last to use the folder.
var removal io.Closer //nolint:unused // closes when this process ends, and not before

func removeAfterwards(dir string) (io.Closer, error) {
	cmd := exec.Command("sh", "-c", `trap "" INT TERM; read -r _; rm -rf "$0"`, dir) //nolint:noctx // ends after this process
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return input, cmd.Start()
}

// Replica is one server process on the loopback interface.
type Replica struct {
	*process.Process // the present one, or the last one

	URL      string // of the pages, such as http://127.0.0.1:12345
	Addr     string // the same without http://
	AdminURL string

	t    testing.TB
	args []string // of the caller
	log  *os.File
}

// Start starts a replica with the flags args, on free ports, and returns when it
// is ready. It ends with the test.
func Start(t testing.TB, args ...string) *Replica {
	t.Helper()
	r := newReplica(t, args)
	r.await("readyz")
	return r
}

// StartUnready is Start, but returns as soon as the process answers, as it does
// when there is no Redis.
func StartUnready(t testing.TB, args ...string) *Replica {
	t.Helper()
	r := newReplica(t, args)
	r.await("livez")
	return r
}

func newReplica(t testing.TB, args []string) *Replica {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(t.TempDir(), "log"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	free := redistest.FreePorts(t, 2)
	r := &Replica{Addr: "127.0.0.1:" + strconv.Itoa(free[0]), t: t, args: args, log: log}
	r.URL = "http://" + r.Addr
	r.AdminURL = "http://127.0.0.1:" + strconv.Itoa(free[1])
	t.Cleanup(func() { _ = log.Close() })
	r.launch()
	t.Cleanup(func() {
		r.Kill()
		if t.Failed() {
			t.Logf("end of the log of the replica at %s:\n%s", r.Addr, r.LastLogs(loggedLines))
		}
	})
	return r
}

func (r *Replica) launch() {
	r.t.Helper()
	args := append([]string{"-listen", r.Addr, "-admin-listen", strings.TrimPrefix(r.AdminURL, "http://")}, r.args...)
	cmd := exec.Command(Binary(r.t), args...) //nolint:noctx // Kill ends it
	cmd.Stdout, cmd.Stderr = r.log, r.log
	// What the tester has set for servers of their own is not meant for this one.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "PRESENCE_") })
	var err error
	if r.Process, err = process.Start(cmd); err != nil {
		r.t.Fatalf("start a replica: %v", err)
	}
}

// await waits until an admin endpoint answers with 200.
func (r *Replica) await(endpoint string) {
	r.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	redistest.Eventually(r.t, startTimeout, fmt.Sprintf("/%s of %s is 200", endpoint, r.AdminURL), func() bool {
		select {
		case <-r.Ended():
			r.t.Fatalf("the replica ended: %v", r.State())
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.AdminURL+"/"+endpoint, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		reply, err := client.Do(request)
		if err != nil {
			return false
		}
		_ = reply.Body.Close()
		return reply.StatusCode == http.StatusOK
	})
}

// Stop asks the process to end, as orchestrators do, and returns when it has:
// its exit code, and how long it took. A process that was killed has code -1.
func (r *Replica) Stop() (code int, took time.Duration) {
	r.t.Helper()
	begin := time.Now()
	if !r.Process.Stop(stopTimeout) {
		r.t.Errorf("the replica did not stop within %v", stopTimeout)
	}
	return r.ExitCode(), time.Since(begin)
}

// ExitCode is that of the process, which must have ended; -1 if it was killed.
func (r *Replica) ExitCode() int { return r.State().ExitCode() }

// Restart starts the replica again, on the same ports and with the same flags,
// and returns when it is ready. The process must have ended.
func (r *Replica) Restart() {
	r.t.Helper()
	r.Relaunch()
	r.await("readyz")
}

// Relaunch is Restart, but does not wait until the replica answers.
func (r *Replica) Relaunch() {
	r.t.Helper()
	select {
	case <-r.Ended():
	default:
		r.t.Fatal("restart of a replica that runs")
	}
	r.launch()
}

// Logs returns what all processes of the replica have written so far.
func (r *Replica) Logs() string {
	text, err := os.ReadFile(r.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// LastLogs returns the last n lines of Logs.
func (r *Replica) LastLogs(n int) string {
	lines := slices.Collect(strings.Lines(r.Logs()))
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
