package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"presence/internal/process"
	"presence/internal/redistest"
)

// crowdEnv makes this test binary a crowd that reads streams, until its input ends: its
// value is a host, and the head of a request.
const crowdEnv = "PRESENCE_BENCH_CROWD"

// crowd is a process that reads streams. It reads each four times a second: what a server
// sends costs it one call each, and the crowd, which is to stand for many machines, much
// less.
type crowd struct {
	t     *testing.T
	in    io.WriteCloser
	lines *bufio.Reader
}

// newCrowd starts a crowd of which nobody reads yet. Each stream is opened by a GET of a
// path, in which {} is the number of the stream. They end with the test.
func newCrowd(t *testing.T, host, path, key string) *crowd {
	t.Helper()
	cmd := exec.Command(os.Args[0]) //nolint:noctx // this binary, ends with its input
	cmd.Env = append(os.Environ(), crowdEnv+"="+host+"|"+requestOf(host, path, key))
	in, out := talk(t, cmd)
	return &crowd{t, in, out}
}

// talk starts a process that reads lines and answers by lines. It ends with its input, and
// that with the test.
func talk(t *testing.T, cmd *exec.Cmd) (in io.WriteCloser, out *bufio.Reader) {
	t.Helper()
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	run, err := process.Start(cmd) // which closes out when the process ends: after the last answer
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		<-run.Ended()
	})
	return in, bufio.NewReader(pipe)
}

// more has n more streams be opened, and returns when all of the crowd are open.
func (c *crowd) more(n int) {
	c.t.Helper()
	c.begin(n)
	c.state()
}

// begin has n more streams be opened, and does not wait for them.
func (c *crowd) begin(n int) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, n); err != nil {
		c.t.Fatal(err)
	}
}

// state waits until all streams are open, and returns how many have ended since, and how
// many users the others were last told, by how many were told so.
func (c *crowd) state() (ended int, users map[int]int) {
	c.t.Helper()
	c.begin(0)
	line, err := c.lines.ReadString('\n')
	if err != nil {
		c.t.Fatalf("the crowd says %q, %v", line, err)
	}
	users = map[int]int{}
	for i, field := range strings.Fields(line) {
		var n, times int
		if i == 0 {
			_, err = fmt.Sscan(field, &ended)
		} else if _, err = fmt.Sscanf(field, "%d:%d", &n, &times); err == nil {
			users[n] = times
		}
		if err != nil {
			c.t.Fatalf("the crowd says %q, %v", line, err)
		}
	}
	return ended, users
}

// requestOf is the text of a request.
func requestOf(host, path, key string) string {
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", path, host, key)
}

// reader is one stream of a crowd.
type reader struct {
	fd    int
	users int // that it was last told
	ended bool
}

const (
	// often is how often a crowd reads, a part of its streams each time, and parts how many
	// there are.
	often = 10 * time.Millisecond
	parts = 25
)

// readers are the streams of a crowd. They are files of which Go's poller knows nothing:
// it would wake for each event of each of them, which costs the one that sends it as much
// as the crowd.
type readers struct {
	mu   sync.Mutex // guards:
	list []*reader
}

// beCrowd is the process of [crowd].
func beCrowd(value string) {
	host, request, _ := strings.Cut(value, "|")
	var all readers
	var opening sync.WaitGroup
	turns := make(chan bool, 20)
	go all.read()
	asked := 0
	for input := bufio.NewScanner(os.Stdin); input.Scan(); {
		n, err := strconv.Atoi(input.Text())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for range n {
			mine := strings.ReplaceAll(request, "{}", strconv.Itoa(asked))
			asked++
			opening.Go(func() {
				turns <- true
				defer func() { <-turns }()
				all.open(host, mine)
			})
		}
		if n == 0 {
			opening.Wait()
			fmt.Println(all.state())
		}
	}
}

// state is what [crowd.state] reads.
func (rs *readers) state() string {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	ended, users := 0, map[int]int{}
	for _, r := range rs.list {
		if r.ended {
			ended++
		} else {
			users[r.users]++
		}
	}
	fields := []string{strconv.Itoa(ended)}
	for n, times := range users {
		fields = append(fields, fmt.Sprintf("%d:%d", n, times))
	}
	return strings.Join(fields, " ")
}

// open opens a stream, and has it read from then on.
func (rs *readers) open(host, request string) {
	conn, err := net.Dial("tcp", host) //nolint:noctx // on this machine
	if err == nil {
		_, err = io.WriteString(conn, request)
	}
	b := make([]byte, 1<<10)
	n := 0
	if err == nil {
		n, err = conn.Read(b)
	}
	if err == nil && !strings.HasPrefix(string(b), "HTTP/1.1 200 ") {
		err = fmt.Errorf("answered %.100q", b) //nolint:err113 // of a benchmark
	}
	r := &reader{}
	if err == nil {
		r.fd, err = fileOf(conn)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	r.note(b[:n])
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.list = append(rs.list, r)
}

// fileOf takes a connection out of Go's poller.
func fileOf(conn net.Conn) (fd int, err error) {
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Control(func(of uintptr) { fd, failed = syscall.Dup(int(of)) }) //nolint:gosec // a file
	return fd, errors.Join(err, failed)
}

// read reads what has come, each stream four times a second.
func (rs *readers) read() {
	b := make([]byte, 64<<10)
	for turn := 0; ; turn = (turn + 1) % parts {
		time.Sleep(often)
		rs.mu.Lock()
		for i := turn; i < len(rs.list); i += parts {
			rs.list[i].read(b)
		}
		rs.mu.Unlock()
	}
}

// read reads what has come.
func (r *reader) read(b []byte) {
	for !r.ended {
		n, err := syscall.Read(r.fd, b)
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
			return
		}
		if r.ended = n <= 0; r.ended {
			_ = syscall.Close(r.fd)
			return
		}
		if r.note(b[:n]); n < len(b) {
			return
		}
	}
}

// note notes the last number of users that was told.
func (r *reader) note(b []byte) {
	_, rest, found := bytes.Cut(b[max(0, bytes.LastIndex(b, []byte(`"users":`))):], []byte(`"users":`))
	number, _, whole := bytes.Cut(rest, []byte(","))
	if n, err := strconv.Atoi(string(number)); found && whole && err == nil {
		r.users = n
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
func startServer(t *testing.T, env string) (addr string) {
	t.Helper()
	addr = fmt.Sprintf("127.0.0.1:%d", redistest.FreePort(t))
	cmd := exec.Command(os.Args[0]) //nolint:noctx // this binary, killed below
	cmd.Env = append(os.Environ(), env+"="+addr)
	cmd.Stderr = os.Stderr
	run, err := process.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(run.Kill)
	redistest.Eventually(t, 10*time.Second, "the server answers", func() bool { return redistest.Listens(addr) })
	return addr
}
