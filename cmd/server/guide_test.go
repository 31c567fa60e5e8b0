package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"presence/internal/redistest"
	"presence/test/contract"
)

// asServer has the test's own program be the server.
const asServer = "PRESENCE_TEST_AS_SERVER"

// reader does what docs/api.md says, in an empty folder.
type reader struct {
	t     *testing.T
	dir   string
	env   []string
	shell *shell
	watch *buffer // what the stream of the second terminal has shown
	said  string  // what the last commands have printed

	errors buffer // what all commands print besides: that of curl about its progress, too
}

// A newcomer follows docs/api.md from its first line to its last, in an empty folder, and sees
// what it shows. On the way the files of the folder become a web application with presence.
func TestGuide(t *testing.T) {
	for _, tool := range []string{"sh", "curl", "node"} {
		redistest.Tool(t, tool)
	}
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	ports := redistest.FreePorts(t, 2)
	server, application := fmt.Sprint("127.0.0.1:", ports[0]), strconv.Itoa(ports[1])
	text := strings.NewReplacer("localhost:8080", server, "3000", application).Replace(string(page))

	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	if err := os.WriteFile(filepath.Join(programs, "server"), []byte("#!/bin/sh\nexec env "+asServer+"=1 '"+me+"' \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := &reader{t: t, dir: t.TempDir(), env: append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"), "PRESENCE_LISTEN="+server, "PRESENCE_ADMIN_LISTEN=127.0.0.1:0")}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(r.errors.String())
		}
	})
	r.shell = r.open()

	block := regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")
	file := regexp.MustCompile("(?i)save (?:it|this) as `([^`]+)`")
	begin, skipped, kinds := 0, false, map[string]int{}
	blocks := block.FindAllStringSubmatchIndex(text, -1)
	for i, at := range blocks {
		before, kind, body := text[begin:at[0]], text[at[2]:at[3]], text[at[4]:at[5]]
		begin = at[1]
		kinds[kind]++
		lines := strings.Split(strings.TrimSpace(body), "\n")
		last := lines[len(lines)-1]
		name := file.FindStringSubmatch(before)
		switch {
		case name != nil && kind != "sh":
			if err := os.WriteFile(filepath.Join(r.dir, name[1]), []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
		case kind == "sh" && strings.HasPrefix(last, "server "):
			r.start(body)
			r.await("http://" + server + "/readyz")
		case kind == "sh" && strings.HasPrefix(last, "curl -N"):
			r.watch = r.start(body)
		case kind == "sh" && strings.HasPrefix(last, "node "):
			r.start(body)
			r.await("http://localhost:" + application)
			r.application("http://"+server, "http://localhost:"+application)
		case kind == "sh":
			if skipped = strings.Contains(body, "python3") && !r.has("python3"); !skipped {
				r.said = r.shell.run(body)
			}
			if shown := i+1 < len(blocks) && text[blocks[i+1][2]:blocks[i+1][3]] == "json"; !shown {
				r.noProblem()
			}
		case kind == "json" && !skipped:
			r.prints(body)
		case kind == "text":
			r.shows(body)
		case kind == "go":
			if _, err := parser.ParseFile(token.NewFileSet(), "", "package p\nfunc f() error {\n"+body+"}", parser.SkipObjectResolution); err != nil {
				t.Error(err)
			}
		}
	}
	if kinds["sh"] < 7 || kinds["json"] < 4 || kinds["text"] < 2 {
		t.Errorf("docs/api.md has %v", kinds)
	}
}

// has reports whether there is a program, and says where there is none.
func (r *reader) has(program string) bool {
	_, err := exec.LookPath(program)
	r.t.Run(program, func(t *testing.T) {
		if err != nil {
			t.Skipf("%s is not installed: its example in docs/api.md is not tried", program)
		}
	})
	return err == nil
}

// command returns a shell in the folder. It ends with the test, and what it has started.
func (r *reader) command(out io.Writer, args ...string) *exec.Cmd {
	c := exec.Command("sh", args...) //nolint:noctx // is ended below
	c.Dir, c.Env, c.Stdout, c.Stderr = r.dir, r.env, out, &r.errors
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c
}

func (r *reader) begin(c *exec.Cmd) {
	if err := c.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // it may have ended
		_ = c.Wait()                                      // by the signal
	})
}

// start runs commands of which the last goes on, and returns what they print.
func (r *reader) start(commands string) *buffer {
	out := &buffer{}
	r.begin(r.command(out, "-c", commands))
	return out
}

// shell is a terminal in which commands are typed one after the other.
type shell struct {
	t   *testing.T
	in  io.WriteCloser
	out *buffer
	n   int
}

func (r *reader) open() *shell {
	s := &shell{t: r.t, out: &buffer{}}
	c := r.command(s.out)
	var err error
	if s.in, err = c.StdinPipe(); err != nil {
		r.t.Fatal(err)
	}
	r.begin(c)
	return s
}

// run returns what commands print.
func (s *shell) run(commands string) string {
	s.t.Helper()
	s.n++
	from, end := len(s.out.String()), fmt.Sprint("\n--- ", s.n, "\n")
	if _, err := fmt.Fprintf(s.in, "%s\nprintf '\\n--- %d\\n'\n", commands, s.n); err != nil {
		s.t.Fatal(err)
	}
	redistest.Eventually(s.t, 30*time.Second, "the commands end", func() bool { return strings.HasSuffix(s.out.String(), end) })
	return strings.TrimSuffix(s.out.String()[from:], end)
}

// await waits until an address answers.
func (r *reader) await(address string) {
	r.t.Helper()
	redistest.Eventually(r.t, 30*time.Second, address+" answers", func() bool {
		request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, address, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		request.Close = true
		resp, err := http.DefaultClient.Do(request)
		if err != nil {
			return false // it has just been started
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
}

// values are the JSON texts in text, without what is another each time.
func (r *reader) values(text string) (all []any) {
	r.t.Helper()
	for decoder := json.NewDecoder(strings.NewReader(told(text))); ; {
		var v any
		if err := decoder.Decode(&v); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			r.t.Fatalf("%v: %s", err, text)
		}
		all = append(all, v)
	}
}

var (
	instants = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[\d:.]+Z"`)
	versions = regexp.MustCompile(`\b\d{13,}\b`)
	retries  = regexp.MustCompile(`(?m)^retry: \d+$`)
)

// told is a text without what is another each time: times, versions and waits.
func told(text string) string {
	text = instants.ReplaceAllString(text, `"TIME"`)
	text = versions.ReplaceAllString(text, "1")
	return retries.ReplaceAllString(text, "retry: 1")
}

// prints fails the test unless the last commands have printed that.
func (r *reader) prints(want string) {
	r.t.Helper()
	if got := r.values(r.said); !reflect.DeepEqual(got, r.values(want)) {
		r.t.Errorf("the commands print\n%s\nbut docs/api.md says\n%s", r.said, want)
	}
}

// noProblem fails the test if one of the last commands was refused.
func (r *reader) noProblem() {
	r.t.Helper()
	for _, v := range r.values(r.said) {
		if object, _ := v.(map[string]any); object["code"] != nil {
			r.t.Errorf("refused: %v", object)
		}
	}
}

// shows fails the test unless the stream shows that.
func (r *reader) shows(want string) {
	r.t.Helper()
	redistest.Eventually(r.t, 10*time.Second, "the stream shows "+want, func() bool {
		return strings.Contains(told(strings.ReplaceAll(r.watch.String(), ":\n\n", "")), told(want))
	})
}

// application tries the web application as the browser of its user does.
func (r *reader) application(server, application string) {
	r.t.Helper()
	client := http.Client{Transport: &contract.Transport{T: r.t, Base: &http.Transport{DisableKeepAlives: true}}}
	ask := func(method, address, body string, header ...string) (*http.Response, string) {
		request, err := http.NewRequestWithContext(context.WithoutCancel(r.t.Context()), method, address, strings.NewReader(body))
		if err != nil {
			r.t.Fatal(err)
		}
		request.Header.Set("Origin", application)
		for i := 0; i < len(header); i += 2 {
			request.Header.Set(header[i], header[i+1])
		}
		resp, err := client.Do(request)
		if err != nil {
			r.t.Fatal(err)
		}
		defer resp.Body.Close()
		var text bytes.Buffer
		if _, err := text.ReadFrom(resp.Body); err != nil {
			r.t.Fatal(err)
		}
		return resp, text.String()
	}
	_, page := ask("GET", application, "")
	module := regexp.MustCompile(`from "(.*)"`).FindStringSubmatch(page)
	if module == nil {
		r.t.Fatalf("the page is %s", page)
	}
	if resp, text := ask("GET", module[1], ""); resp.StatusCode != 200 || resp.Header.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(text, "export") {
		r.t.Errorf("%s: %s %s", module[1], resp.Status, text)
	}
	const room = "/v1/rooms/document-7"
	if resp, _ := ask("OPTIONS", server+room+"/events", "", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization"); resp.Header.Get("Access-Control-Allow-Origin") != application {
		r.t.Errorf("the page may not call the server: %v", resp.Header)
	}
	for _, name := range []string{"Cem", "Dana"} {
		_, member := ask("GET", application+"/my-token?as="+name, "")
		if resp, text := ask("PUT", server+room+"/connections/tab", "{}", "Authorization", "Bearer "+member); resp.StatusCode != http.StatusCreated {
			r.t.Errorf("%s: %s %s", name, resp.Status, text)
		}
	}
	_, text := ask("GET", server+room+"/members", "")
	var who struct{ Members []struct{ User, Name string } }
	if err := json.Unmarshal([]byte(text), &who); err != nil {
		r.t.Fatal(err)
	}
	if want := []struct{ User, Name string }{{"user-Cem", "Cem"}, {"user-Dana", "Dana"}}; !slices.Equal(who.Members, want) {
		r.t.Errorf("in the document are %v", who.Members)
	}
}
