// Command gotest runs go test with its arguments, and prints what go test would
// print. At the end it lists the tests that were skipped, with the reasons, which go
// test prints only among everything else.
//
// With GOTEST_SKIPPED naming a file it also appends the reasons there, for
// a person who runs it several times.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	code, err := run(os.Args[1:], os.Getenv("GOTEST_SKIPPED"), os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
	}
	os.Exit(code)
}

// run runs go test and returns its exit code.
func run(args []string, skippedFile string, stdout, stderr io.Writer) (code int, err error) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...) //nolint:noctx // an interrupt reaches it, too
	cmd.Stderr = stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	skipped, readErr := report(events, stdout)
	if exit := new(exec.ExitError); errors.As(cmd.Wait(), &exit) {
		code = max(1, exit.ExitCode())
	} else if readErr != nil {
		code = 1
	}
	if skippedFile == "" || len(skipped) == 0 {
		return code, readErr
	}
	f, err := os.OpenFile(skippedFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 1, errors.Join(readErr, err)
	}
	_, err = io.WriteString(f, strings.Join(skipped, ""))
	return code, errors.Join(readErr, err, f.Close())
}

// event is a line of go test -json, as test2json and cmd/go document it.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
}

// key is what an event is about.
type key struct{ pkg, test string }

// report prints what go test without -v would, to out, and returns one line for
// each reason for which tests were skipped.
func report(events io.Reader, out io.Writer) (skipped []string, err error) {
	said := map[key][]string{}
	reasons := map[string]int{}
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadString('\n')
		if err != nil && line == "" {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return summary(reasons, out), err
		}
		var e event
		if json.Unmarshal([]byte(line), &e) != nil {
			_, _ = fmt.Fprint(out, line) // not from a test
			continue
		}
		k := key{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			_, _ = fmt.Fprint(out, e.Output)
		case "output":
			said[k] = append(said[k], e.Output)
		case "fail":
			if e.Test == "" { // of a package that failed: also print what its unfinished tests said
				for other, lines := range said {
					if other.pkg == e.Package && other.test != "" {
						_, _ = fmt.Fprint(out, strings.Join(lines, ""))
						delete(said, other)
					}
				}
			}
			_, _ = fmt.Fprint(out, strings.Join(said[k], ""))
			delete(said, k)
		case "pass", "skip":
			switch {
			case e.Test == "" && len(said[k]) > 0:
				_, _ = fmt.Fprint(out, said[k][len(said[k])-1]) // "ok" or "no test files"
			case e.Test != "" && e.Action == "skip":
				reasons[reason(said[k])]++
			}
			delete(said, k)
		}
	}
}

// reason is what a test gave to t.Skip: the last line with a position.
func reason(said []string) string {
	for _, line := range slices.Backward(said) {
		line = strings.TrimSpace(line)
		if _, text, ok := strings.Cut(line, ".go:"); ok && !strings.HasPrefix(line, "---") {
			if _, text, ok = strings.Cut(text, ": "); ok {
				return text
			}
		}
	}
	return "no reason given"
}

// summary prints the reasons for which tests were skipped, the most frequent first.
func summary(reasons map[string]int, out io.Writer) (lines []string) {
	sorted := make([]string, 0, len(reasons))
	for text := range reasons {
		sorted = append(sorted, text)
	}
	slices.SortFunc(sorted, func(a, b string) int {
		return cmp.Or(cmp.Compare(reasons[b], reasons[a]), cmp.Compare(a, b))
	})
	for _, text := range sorted {
		lines = append(lines, fmt.Sprintf("skipped %3d: %s\n", reasons[text], text))
	}
	_, _ = fmt.Fprint(out, strings.Join(lines, ""))
	return lines
}
