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
	get := func(path string) io.ReadCloser {
		resp, err := http.Get(base + path) //nolint:noctx // of a process of this test
		if err != nil {
			t.Fatal(err)
		}
		return resp.Body
	}
	profile := get("/debug/pprof/heap?gc=1")
	_, _ = io.Copy(io.Discard, profile)
	_ = profile.Close()
	metrics := get("/metrics")
	defer func() { _ = metrics.Close() }()
	values := map[string]float64{}
	for lines := bufio.NewScanner(metrics); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		values[name], _ = strconv.ParseFloat(value, 64)
	}
	return Usage{
		values["go_goroutines"], values["go_memstats_heap_alloc_bytes"],
		values["process_resident_memory_bytes"], values["process_cpu_seconds_total"],
	}
}
