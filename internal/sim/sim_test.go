package sim

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"presence/test/outside"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // much garbage, little of it lives
	outside.Begin()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "presence-sim")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		keysFile = filepath.Join(dir, "keys")
		line := fmt.Sprintf("simulated sha256:%x rooms=* rights=read,write\n", sha256.Sum256([]byte(apiKey)))
		if err := os.WriteFile(keysFile, []byte(line), 0o600); err != nil {
			panic(err)
		}
		return m.Run()
	}())
}

// keysFile is the file of API keys.
var keysFile string

// number returns a variable of the environment, or the default.
func number(t *testing.T, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestKnown runs plans that once failed.
func TestKnown(t *testing.T) {
	text, err := os.ReadFile("testdata/seeds")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		line, why, _ := strings.Cut(line, "#")
		if strings.TrimSpace(line) == "" {
			continue
		}
		p, err := parsePlan(line)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSpace(why), func(t *testing.T) {
			t.Parallel()
			if o := simulate(t, p); o.failure != "" {
				t.Errorf("%s\n%s\n%s", o.failure, p, strings.Join(o.story, "\n"))
			}
		})
	}
}

// TestPlanIsItsText checks that a plan can be written down and read again.
func TestPlanIsItsText(t *testing.T) {
	p := newPlan(7)
	again, err := parsePlan(p.String())
	if err != nil || again.String() != p.String() || len(p.steps) < 7 {
		t.Errorf("%v became %v, %v", p, again, err)
	}
	whole, err := parsePlan("7")
	if err != nil || whole.String() != p.String() {
		t.Errorf("a seed by itself became %v, %v", whole, err)
	}
	on, err := parsePlan("7/3: 1s flush 2")
	if err != nil || on.masters != 3 || on.String() != "7/3: 1s flush 2" {
		t.Errorf("a plan on a Cluster became %v, %v", on, err)
	}
	for _, bad := range []string{"", "7/1: 1s flush", "7/x: 1s flush", "x: 1s flush", "7: flush", "7: 1s dance", "7: 1 flush", "7: 1s flush x"} {
		if p, err := parsePlan(bad); err == nil {
			t.Errorf("%q is the plan %v", bad, p)
		}
	}
}

// TestShrinkKeepsWhatFails shrinks a plan that fails because of two of its steps.
func TestShrinkKeepsWhatFails(t *testing.T) {
	p := newPlan(7)
	p.steps[1].what, p.steps[6].what = "first", "second"
	least := shrink(p, 1000, func(p plan) bool {
		return strings.Contains(p.String(), "first") && strings.Contains(p.String(), "second")
	})
	if len(least.steps) != 2 || least.steps[0].what != "first" || least.steps[1].what != "second" {
		t.Errorf("shrunk to %v", least)
	}
}

// TestSeeds runs the plans of seeds: a thousand, or a part of them with the race
// detector, which makes each ten times as slow.
func TestSeeds(t *testing.T) {
	t.Parallel()
	if text := os.Getenv("PRESENCE_SIM_PLAN"); text != "" {
		p, err := parsePlan(text)
		if err != nil {
			t.Fatal(err)
		}
		o := simulate(t, p)
		t.Logf("%s\n%s", p, strings.Join(o.story, "\n"))
		if o.failure != "" {
			t.Error(o.failure)
		}
		return
	}
	first := number(t, "PRESENCE_SIM_SEED", 1)
	count := runs
	if os.Getenv("PRESENCE_SIM_SEED") != "" {
		count = 1
	}
	count, every := number(t, "PRESENCE_SIM_RUNS", count), number(t, "PRESENCE_SIM_EVERY", 1)
	var next atomic.Int64
	for worker := range runtime.GOMAXPROCS(0) {
		t.Run(fmt.Sprint("worker ", worker), func(t *testing.T) {
			t.Parallel()
			for {
				n := int(next.Add(1)) - 1
				if n >= count {
					return
				}
				try(t, newPlan(uint64(first+n*every)))
			}
		})
	}
}

// try runs a plan, and shrinks it if it fails.
func try(t *testing.T, p plan) {
	t.Helper()
	o := simulate(t, p)
	if o.failure == "" {
		return
	}
	least := shrink(p, number(t, "PRESENCE_SIM_SHRINK", 100), func(p plan) bool { return simulate(t, p).kind == o.kind })
	if again := simulate(t, least); again.kind == o.kind {
		o = again
	}
	t.Errorf("seed %d: %s\nsteps: %s\n%s", p.seed, o.failure, least, strings.Join(o.story, "\n"))
}
