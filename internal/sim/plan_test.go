package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// step is one thing that happens, after a wait.
type step struct {
	wait time.Duration
	what string
	args []int
}

// String returns the step as it is written in testdata: "300ms join 3 1 0".
func (s step) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s", s.wait, s.what)
	for _, arg := range s.args {
		fmt.Fprintf(&b, " %d", arg)
	}
	return b.String()
}

// arg returns the i-th argument, 0 if there is none.
func (s step) arg(i int) int {
	if i < len(s.args) {
		return s.args[i]
	}
	return 0
}

// plan is everything that happens in one run.
type plan struct {
	seed    uint64
	masters int // of the Cluster; 0: on a single Redis
	steps   []step
}

// String returns the plan as it is written in testdata: "5/3: 0s open 1", or on a single
// Redis "5: …".
func (p plan) String() string {
	texts := make([]string, len(p.steps))
	for i, s := range p.steps {
		texts[i] = s.String()
	}
	cluster := ""
	if p.masters > 0 {
		cluster = fmt.Sprint("/", p.masters)
	}
	return fmt.Sprintf("%d%s: %s", p.seed, cluster, strings.Join(texts, "; "))
}

// parsePlan reads a plan. Without steps it returns the whole plan of the seed.
func parsePlan(text string) (plan, error) {
	number, rest, _ := strings.Cut(text, ":")
	number, masters, cluster := strings.Cut(number, "/")
	seed, err := strconv.ParseUint(strings.TrimSpace(number), 10, 64)
	if err != nil {
		return plan{}, fmt.Errorf("seed of %q: %w", text, err)
	}
	if strings.TrimSpace(rest) == "" {
		return newPlan(seed), nil
	}
	p := plan{seed: seed}
	if cluster {
		if p.masters, err = strconv.Atoi(strings.TrimSpace(masters)); err != nil || p.masters < 2 || p.masters > 9 {
			return plan{}, fmt.Errorf("masters of %q: please give 2 to 9 of them", text)
		}
	}
	for part := range strings.SplitSeq(rest, ";") {
		words := strings.Fields(part)
		if len(words) < 2 {
			return plan{}, fmt.Errorf("step %q is none", part)
		}
		s := step{what: words[1]}
		if s.wait, err = time.ParseDuration(words[0]); err != nil {
			return plan{}, fmt.Errorf("step %q: %w", part, err)
		}
		if steps[s.what] == nil {
			return plan{}, fmt.Errorf("step %q: nothing is called %s", part, s.what)
		}
		for _, word := range words[2:] {
			n, err := strconv.Atoi(word)
			if err != nil {
				return plan{}, fmt.Errorf("step %q: %w", part, err)
			}
			s.args = append(s.args, n)
		}
		p.steps = append(p.steps, s)
	}
	return p, nil
}

// Waits before a step, from "at once" to longer than a grace.
var waits = []time.Duration{
	0, 0, 10 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond, 300 * time.Millisecond,
	time.Second, time.Second, 2 * time.Second, 3 * time.Second, 5 * time.Second,
}

// always are kinds of steps that every run has. Each seed adds some others, so that one
// seed shows what another kind of trouble would hide.
var (
	always  = []string{"open", "open", "open", "join", "join", "join", "leave", "close"}
	actions = []string{"twice", "twonames", "reload", "form", "json", "hostile", "head", "drop", "vanish", "lossy", "rest", "forge", "hasty"}
	calls   = []string{"watch", "attend", "put", "hangup", "delete", "remove", "update"}
	faults  = []string{"stall", "cut", "flush", "down", "empty", "kill", "drain", "isolate", "rewind", "clock", "lose"}
)

// ofCluster are the faults of one node. Runs on a Cluster have more of them, and few
// other faults.
var ofCluster = []string{"stall", "cut", "flush", "down", "empty", "rewind", "clock", "lose", "move"}

// everyCluster says that one seed in so many runs on a Cluster, which takes twice as long
// as a single Redis.
const everyCluster = 17

// newPlan returns the plan of a seed.
func newPlan(seed uint64) plan {
	rng := rand.New(rand.NewPCG(seed, 1))
	kinds := slices.Clone(always)
	some := func(of []string, share float64) {
		for _, kind := range of {
			if rng.Float64() < share {
				kinds = append(kinds, kind, kind)
			}
		}
	}
	some(actions, 0.4)
	some(calls, 0.4)
	p := plan{seed: seed}
	if seed%everyCluster == 5 {
		p.masters = 2 + int(seed/everyCluster%2)
		some(ofCluster, 0.35)
		some([]string{"kill", "drain"}, 0.15)
	} else {
		some(faults, 0.25)
	}
	for range 6 + rng.IntN(14) {
		s := step{wait: waits[rng.IntN(len(waits))], what: kinds[rng.IntN(len(kinds))]}
		for range 4 {
			s.args = append(s.args, rng.IntN(24))
		}
		p.steps = append(p.steps, s)
	}
	return p
}

// shrink returns a plan with as few of p's steps as it can find that still fails, and
// with waits as short as it can find. It calls fails at most limit times.
func shrink(p plan, limit int, fails func(plan) bool) plan {
	try := func(steps []step) bool {
		if limit <= 0 {
			return false
		}
		limit--
		if fails(plan{p.seed, p.masters, steps}) {
			p.steps = steps
			return true
		}
		return false
	}
	for size := max(1, len(p.steps)/2); ; size = max(1, size/2) {
		dropped := false
		for at := 0; at < len(p.steps); {
			end := min(at+size, len(p.steps))
			without := slices.Concat(p.steps[:at], p.steps[end:])
			if try(without) {
				dropped = true
			} else {
				at = end
			}
		}
		if size == 1 && !dropped || limit <= 0 {
			break
		}
	}
	return p
}
