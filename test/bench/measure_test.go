package bench

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// figure is what a number says.
type figure struct {
	name string // "Redis time of a join"
	unit string // "µs"
}

// goal is what a figure should be: at least or at most so much, or so many times another.
type goal struct {
	figure figure
	of     string  // whose; "" is ours
	at     float64 // where
	than   string  // whose figure it is compared with; "": none
	thanAt float64 // where that is; 0 is at
	least  float64 // one of the two:
	most   float64
	worst  bool // all values have to reach it, not only their median
}

// report is what one run has measured.
type report struct {
	Began    time.Time `json:"began"`
	Took     float64   `json:"took_seconds"`
	Quick    bool      `json:"quick"`
	Rounds   int       `json:"rounds"`
	Machine  []string  `json:"machine"`
	Versions []string  `json:"versions"`
	Rows     []*result `json:"rows"`
}

// result is what was measured of a row.
type result struct {
	Name   string    `json:"name"`
	Title  string    `json:"title"`
	Took   float64   `json:"took_seconds"`
	Series []*series `json:"series"`
	Goals  []verdict `json:"goals"`
}

// series are the values of one figure, one of each round.
type series struct {
	Figure string    `json:"figure"`
	Unit   string    `json:"unit"`
	Of     string    `json:"of"`
	At     float64   `json:"at"`
	AtUnit string    `json:"at_unit"`
	Values []float64 `json:"values"`
}

// verdict is a goal, and whether it was reached.
type verdict struct {
	Goal   string    `json:"goal"`
	Figure string    `json:"figure"`
	Unit   string    `json:"unit"`   // of Values; "times": they say how many times the other
	Than   string    `json:"than"`   // the other, where that is another side
	Values []float64 `json:"values"` // of each round
	Met    bool      `json:"met"`
}

// measure measures one row.
type measure struct {
	t      *testing.T
	quick  bool
	rounds int
	atUnit string // what the figures depend on
	result *result
}

// turn measures one side in one round, and says so.
func (m *measure) turn(of string, round int, at float64, do func(t *testing.T) map[figure]float64) {
	name := fmt.Sprintf("%d/%s/%s", round+1, of, number(at))
	m.t.Run(name, func(t *testing.T) {
		began := time.Now()
		for _, f := range sorted(do(t)) {
			m.note(f.figure, of, at, f.value)
			fmt.Printf("  round %d, %s, %s %s: %s %s %s\n", round+1, of, number(at), m.atUnit, f.figure.name, number(f.value), f.figure.unit)
		}
		if took := time.Since(began); took > 20*time.Second {
			fmt.Printf("  took %.0f s\n", took.Seconds())
		}
	})
}

type noted struct {
	figure figure
	value  float64
}

func sorted(values map[figure]float64) (list []noted) {
	for f, v := range values {
		list = append(list, noted{f, v})
	}
	slices.SortFunc(list, func(a, b noted) int { return cmp.Compare(a.figure.name, b.figure.name) })
	return list
}

// note adds a value of a figure.
func (m *measure) note(f figure, of string, at, value float64) {
	s := m.result.find(f.name, of, at)
	if s == nil {
		s = &series{Figure: f.name, Unit: f.unit, Of: of, At: at, AtUnit: m.atUnit}
		m.result.Series = append(m.result.Series, s)
	}
	s.Values = append(s.Values, value)
}

func (r *result) find(name, of string, at float64) *series {
	for _, s := range r.Series {
		if s.Figure == name && s.Of == of && s.At == at {
			return s
		}
	}
	return nil
}

// each calls do for each round, the sides of which take turns: of two rounds one begins
// with the one, and one with the other.
func (m *measure) each(sides []string, do func(round int, of string)) {
	for round := range m.rounds {
		if round%2 == 1 {
			sides = slices.Clone(sides)
			slices.Reverse(sides)
		}
		for _, of := range sides {
			do(round, of)
		}
		if round%2 == 1 {
			slices.Reverse(sides)
		}
	}
}

func newReport(t *testing.T, quick bool) *report {
	t.Helper()
	r := &report{Began: time.Now().UTC().Truncate(time.Second), Quick: quick, Rounds: 3, Machine: machine(), Versions: versions(t)}
	if quick {
		r.Rounds = 1
	}
	for _, line := range slices.Concat(r.Machine, r.Versions) {
		fmt.Println(line)
	}
	return r
}

// measure measures a row, and judges it.
func (r *report) measure(t *testing.T, row row) {
	t.Helper()
	began := time.Now()
	fmt.Printf("\n%s (-row %s)\n", row.title, row.name)
	result := &result{Name: row.name, Title: row.title}
	r.Rows = append(r.Rows, result)
	t.Run(row.name, func(t *testing.T) {
		row.run(&measure{t: t, quick: r.Quick, rounds: r.Rounds, result: result})
	})
	result.Took = time.Since(began).Seconds()
	for _, g := range row.goals {
		result.Goals = append(result.Goals, g.judge(result))
	}
}

// judge finds out whether a goal was reached.
func (g goal) judge(r *result) verdict {
	of := cmp.Or(g.of, ours)
	v := verdict{Figure: g.figure.name, Goal: g.text(r), Unit: g.figure.unit}
	if g.than != "" {
		v.Unit = times
		if g.than != ours {
			v.Than = g.than
		}
	}
	mine := r.find(g.figure.name, of, g.at)
	if mine == nil {
		return v
	}
	v.Values = slices.Clone(mine.Values)
	if g.than != "" {
		other := r.find(g.figure.name, g.than, cmp.Or(g.thanAt, g.at))
		if other == nil {
			v.Values = nil
			return v
		}
		v.Values = v.Values[:min(len(v.Values), len(other.Values))]
		for i := range v.Values {
			v.Values[i] /= other.Values[i]
		}
	}
	low, middle, high := spread(v.Values)
	if !g.worst {
		low, high = middle, middle
	}
	if g.least > 0 {
		v.Met = low >= g.least
	} else {
		v.Met = high <= g.most
	}
	return v
}

// text says the goal.
func (g goal) text(r *result) string {
	sign, much := "at most", g.most
	if g.least > 0 {
		sign, much = "at least", g.least
	}
	unit := ""
	for _, s := range r.Series {
		unit = s.AtUnit
	}
	where := fmt.Sprintf("at %s %s", short(g.at), unit)
	if g.of != "" {
		where = g.of + ", " + where
	}
	switch {
	case g.than == "":
		return fmt.Sprintf("%s %s %s, %s", sign, short(much), g.figure.unit, where)
	case g.than == ours:
		return fmt.Sprintf("%s %s times that at %s, %s", sign, short(much), short(g.thanAt), where)
	case much < 0.5:
		return fmt.Sprintf("%s 1/%s of %s’s, %s", sign, short(1/much), g.than, where)
	default:
		return fmt.Sprintf("%s %s times %s’s, %s", sign, short(much), g.than, where)
	}
}

// spread returns the least, the middle and the greatest of values.
func spread(values []float64) (low, middle, high float64) {
	if len(values) == 0 {
		return math.NaN(), math.NaN(), math.NaN()
	}
	list := slices.Sorted(slices.Values(values))
	n := len(list)
	return list[0], (list[(n-1)/2] + list[n/2]) / 2, list[n-1]
}

// number writes x with three digits or more.
func number(x float64) string {
	if math.IsNaN(x) {
		return "–"
	}
	digits := 0
	switch size := math.Abs(x); {
	case size == math.Trunc(size):
	case size < 1:
		digits = 3
	case size < 10:
		digits = 2
	case size < 100:
		digits = 1
	}
	text := strconv.FormatFloat(x, 'f', digits, 64)
	whole, rest, _ := strings.Cut(text, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		whole += "." + rest
	}
	return whole
}

// short writes x without zeros at the end.
func short(x float64) string {
	text := number(x)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// ranged writes the middle of values, and between what they lie.
func ranged(values []float64) string {
	low, middle, high := spread(values)
	if low == high || len(values) < 2 {
		return number(middle)
	}
	return fmt.Sprintf("%s (%s–%s)", number(middle), number(low), number(high))
}

// times is the unit of what is compared with another.
const times = "times"

// measured writes what was measured.
func (v verdict) measured() string {
	_, middle, _ := spread(v.Values)
	if v.Unit != times || len(v.Values) == 0 || middle >= 0.5 {
		text := ranged(v.Values) + " " + v.Unit
		if v.Than != "" {
			text += " " + v.Than + "’s"
		}
		return text
	}
	parts := make([]float64, len(v.Values))
	for i, value := range v.Values {
		parts[i] = 1 / value
	}
	text := "1/" + ranged(parts)
	if v.Than != "" {
		text += " of " + v.Than + "’s"
	}
	return text
}

// goalsMet counts the goals of some rows, and those of them that were reached. No names: of
// all rows.
func (r *report) goalsMet(names ...string) (met, all int) {
	for _, row := range r.Rows {
		if len(names) > 0 && !slices.Contains(names, row.Name) {
			continue
		}
		for _, v := range row.Goals {
			all++
			if v.Met {
				met++
			}
		}
	}
	return met, all
}

// missed counts the goals that were not reached.
func (r *report) missed() int {
	met, all := r.goalsMet()
	return all - met
}

// text is all figures and goals.
func (r *report) text() string {
	var b strings.Builder
	w := &b
	for _, line := range slices.Concat([]string{""}, r.Machine, r.Versions) {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintf(w, "%d rounds, in %.0f minutes, begun %s; medians, and in brackets the least and the greatest\n",
		r.Rounds, math.Ceil(r.Took/60), r.Began.Format("2006-01-02 15:04 MST"))
	for _, row := range r.Rows {
		fmt.Fprintf(w, "\n%s (-row %s, %.0f s)\n", row.Title, row.Name, row.Took)
		for _, s := range row.Series {
			fmt.Fprintf(w, "  %-34s %-14s %8s %-10s %s %s\n", s.Figure, s.Of, number(s.At), s.AtUnit, ranged(s.Values), s.Unit)
		}
		for _, v := range row.Goals {
			fmt.Fprintf(w, "  %-6s %s: %s: %s\n", v.word(), v.Figure, v.Goal, v.measured())
		}
	}
	if r.Quick {
		fmt.Fprintln(w, "\nOne round says little: goals are not judged.")
	} else {
		fmt.Fprintf(w, "\n%d goals missed\n", r.missed())
	}
	return b.String()
}

// word says whether the goal was reached.
func (v verdict) word() string {
	switch {
	case v.Met:
		return "met"
	case len(v.Values) == 0:
		return "not measured"
	default:
		return "MISSED"
	}
}

func (r *report) save(t *testing.T, path string) {
	t.Helper()
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func loadReport(t *testing.T, path string) *report {
	t.Helper()
	r := &report{}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// machine says on what is measured.
func machine() []string {
	model := "processor"
	for _, line := range lines("/proc/cpuinfo") {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	memory := ""
	for _, line := range lines("/proc/meminfo") {
		var kib float64
		if _, err := fmt.Sscanf(line, "MemTotal: %f kB", &kib); err == nil {
			memory = fmt.Sprintf(", %.0f GiB of memory", kib/(1<<20))
		}
	}
	system := runtime.GOOS + " " + lines("/proc/sys/kernel/osrelease")[0]
	load := strings.Fields(lines("/proc/loadavg")[0])
	return []string{
		fmt.Sprintf("%d cores of %s%s, %s/%s", runtime.NumCPU(), model, memory, system, runtime.GOARCH),
		"load before: " + strings.Join(load[:min(len(load), 3)], " "),
	}
}

func lines(path string) []string {
	text, _ := os.ReadFile(path) // missing on other systems
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

// versions says what is measured.
func versions(t *testing.T) []string {
	t.Helper()
	first := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).Output() //nolint:noctx // short
		if err != nil {
			return "unknown"
		}
		line, _, _ := strings.Cut(string(out), "\n")
		return line
	}
	commit := first("git", "rev-parse", "--short=12", "HEAD")
	if first("git", "status", "--porcelain", "--untracked-files=no") != "" {
		commit += " and what is not committed"
	}
	redis := "unknown"
	for field := range strings.FieldsSeq(first("redis-server", "--version")) {
		if v, ok := strings.CutPrefix(field, "v="); ok {
			redis = v
		}
	}
	list := []string{"presence " + commit, runtime.Version() + ", Redis " + redis}
	version := func(dir, module string) string {
		return first("go", "list", "-C", dir, "-m", "-f", "{{.Version}}", module)
	}
	return append(list, strings.Join([]string{
		"centrifuge " + version("peers", "github.com/centrifugal/centrifuge"),
		"livetemplate " + version(".", "github.com/livetemplate/livetemplate"), "go-redis " + version(".", "github.com/redis/go-redis/v9"),
	}, ", "))
}
