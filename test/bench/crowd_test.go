package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"presence/internal/redistest"
)

// crowdEnv makes this test binary a crowd that reads streams, until its input ends: its
// value is a host, the head of a request, and how many.
const crowdEnv = "PRESENCE_BENCH_CROWD"

// crowd opens n streams from another process, each by a GET of a path. They end with the
// benchmark. It reads four times a second: what a server sends costs it one call each, and
// the crowd, which is to stand for many machines, much less.
func crowd(b *testing.B, n int, host, path, key string) {
	b.Helper()
	cmd := exec.Command(os.Args[0]) //nolint:noctx // this binary, ended below
	redistest.EndWithTest(cmd)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%d", crowdEnv, host, requestOf(host, path, key), n))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "begun\n" {
		b.Fatalf("the crowd says %q, %v", line, err)
	}
}

// requestOf is the text of a request.
func requestOf(host, path, key string) string {
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", path, host, key)
}

// beCrowd is the process of [crowd].
func beCrowd(value string) {
	parts := strings.Split(value, "|")
	var n int
	_, _ = fmt.Sscan(parts[2], &n)
	var begun sync.WaitGroup
	turns := make(chan bool, 20)
	for range n {
		turns <- true
		begun.Go(func() {
			defer func() { <-turns }()
			conn, err := net.Dial("tcp", parts[0]) //nolint:noctx // on this machine
			if err == nil {
				_, err = io.WriteString(conn, parts[1])
			}
			b := make([]byte, 1<<10)
			if err == nil {
				_, err = conn.Read(b)
			}
			if err == nil && !strings.HasPrefix(string(b), "HTTP/1.1 200 ") {
				err = fmt.Errorf("answered %.100q", b) //nolint:err113 // of a benchmark
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			go readNowAndThen(conn)
		})
	}
	begun.Wait()
	fmt.Println("begun")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// readNowAndThen reads what has come, four times a second.
func readNowAndThen(conn net.Conn) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	b := make([]byte, 64<<10)
	for range tick.C {
		if _, err := conn.Read(b); err != nil {
			return
		}
	}
}

// writerEnv makes this test binary a server at the address that is its value: it keeps the
// connection of each GET of /stream, and writes the body of a POST to /write to all of them,
// in a loop.
const writerEnv = "PRESENCE_BENCH_WRITER"

func serveWriter(addr string) error {
	var mu sync.Mutex // guards:
	var conns []net.Conn
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
		}
		if err != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		conns = append(conns, conn)
	})
	mux.HandleFunc("POST /write", func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		for _, conn := range conns {
			if err == nil {
				_, err = conn.Write(text)
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.Handle("/metrics", promhttp.Handler())
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	return http.ListenAndServe(addr, mux) //nolint:gosec // for as long as a benchmark takes
}

// startServer starts this binary as one of the servers of this package, and returns where
// it listens.
func startServer(b *testing.B, env string) (addr string) {
	b.Helper()
	addr = fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(b))
	cmd := exec.Command(os.Args[0]) //nolint:noctx // this binary, killed below
	redistest.EndWithTest(cmd)
	cmd.Env = append(os.Environ(), env+"="+addr)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	redistest.Eventually(b, 10*time.Second, "the server answers", func() bool {
		conn, err := new(net.Dialer).DialContext(context.Background(), "tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return addr
}
