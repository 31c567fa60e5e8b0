package harness

import (
	"bufio"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// Usage is what a server process takes of its machine.
type Usage struct {
	Goroutines float64
	Heap       float64 // bytes that are in use
	Resident   float64 // bytes that the system has given
	CPU        float64 // seconds since it was started
}

// Measure asks the admin endpoints at base after a garbage collection.
func Measure(t testing.TB, base string) Usage {
	t.Helper()
	profile := get(t, base+"/debug/pprof/heap?gc=1")
	_, _ = io.Copy(io.Discard, profile)
	_ = profile.Close()
	values := metrics(t, base)
	return Usage{
		values["go_goroutines"], values["go_memstats_heap_alloc_bytes"],
		values["process_resident_memory_bytes"], values["process_cpu_seconds_total"],
	}
}

// Metric is the value of one of the replica's metrics, whose name has its labels
// as /metrics has them.
func (r *Replica) Metric(name string) float64 {
	r.t.Helper()
	value, ok := metrics(r.t, r.AdminURL)[name]
	if !ok {
		r.t.Errorf("there is no metric %s", name)
	}
	return value
}

func get(t testing.TB, url string) io.ReadCloser {
	t.Helper()
	resp, err := http.Get(url) //nolint:noctx,gosec // of a process of this test
	if err != nil {
		t.Fatal(err)
	}
	return resp.Body
}

// metrics are the values of all, by name and labels.
func metrics(t testing.TB, base string) map[string]float64 {
	t.Helper()
	body := get(t, base+"/metrics")
	defer func() { _ = body.Close() }()
	values := map[string]float64{}
	for lines := bufio.NewScanner(body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		values[name], _ = strconv.ParseFloat(value, 64)
	}
	return values
}
