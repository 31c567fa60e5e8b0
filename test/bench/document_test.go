package bench

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// document writes performance.md, and its plots beside it.
func (r *report) document(t *testing.T, docs string) {
	t.Helper()
	drawn := r.draw(t, filepath.Join(docs, "performance"))
	var b strings.Builder
	b.WriteString("# Performance\n\n" + r.summary())
	fmt.Fprintf(&b, "`make bench ARGS=-doc` wrote this page. All numbers are of one run of it, of %d rounds and %.0f minutes, which began %s. ",
		r.Rounds, math.Ceil(r.Took/60), r.Began.Format("2006-01-02 15:04 MST"))
	b.WriteString("A number is the median of the rounds, and of kills that of the replicas; the least and the greatest are in brackets.\n\n")
	for _, line := range slices.Concat(r.Machine, r.Versions) {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	if r.busy() {
		b.WriteString("\nOther programs kept the machine busy when this run began. That makes times longer, those until an answer most of all, and rates lower. What is compared with another side in turns, and memory, can be relied on.\n")
	}
	b.WriteString(`
## How it is measured

Everything runs on one machine: Redis, the servers, and the crowds that read what they send. So rates depend on the crowd, too. What a server or Redis costs depends on it less: it is the processor time that the operating system counts for that process.

- Sides take turns within each round, and the order of the turns changes from round to round. Each turn has new processes, and a new Redis that keeps nothing on disk. The exceptions are event streams, whose two servers stay for all rounds, and what is idle: idle servers are measured side by side.
- **presence** is this project with its default settings, unless a title says otherwise.
- **centrifuge** is the Redis presence manager and the Redis broker of the Go module of that name, called as its users call it, in ` + "[test/bench/peers](../test/bench/peers)" + `. For heartbeats it counts clients only, which is its cheapest setting. For joins and memory it also counts distinct users, as presence always does.
- **livetemplate** is the library that renders our pages, by itself: the same page, its own sockets, members in the memory of one process and no Redis.
- **raw** is the limit: for heartbeats one ` + "`ZADD`" + ` each in pipelines of 500; for joins what has to be written and published, as plain commands in pipelines; for event streams writes of the same bytes to as many sockets in a loop.

`)
	b.WriteString("## Goals\n\n| what | measured | goal | |\n|---|---|---|---|\n")
	for _, row := range r.Rows {
		for _, v := range row.Goals {
			fmt.Fprintf(&b, "| %s: %s | %s | %s | %s |\n", row.Title, v.Figure, v.measured(), v.Goal, v.word())
		}
	}
	b.WriteString("\n## How costs grow\n\nThe axis below a plot is logarithmic. Thin lines show the least and the greatest of the rounds.\n")
	for _, p := range drawn {
		fmt.Fprintf(&b, "\n![%s](performance/%s)\n", p.title, p.file)
	}
	b.WriteString("\n" + r.growth())
	b.WriteString("\n## What is not fast\n\n")
	b.WriteString(r.slow())
	b.WriteString("\n## All figures\n")
	for _, row := range r.Rows {
		fmt.Fprintf(&b, "\n### %s\n\n`make bench ARGS=\"-row %s\"`\n\n", row.Title, row.Name)
		row.table(&b)
	}
	if err := os.WriteFile(filepath.Join(docs, "performance.md"), []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// summary says what the goals, and those that were missed, mean for people.
func (r *report) summary() string {
	met, all := r.goalsMet()
	text := fmt.Sprintf("%d of %d goals are met. ", met, all)
	if met, all := r.goalsMet("storm", "kills"); all > 0 {
		text += fmt.Sprintf("Those of a storm of joins and of killed replicas are about whether people see the right list in time: of these, %d of %d are met. "+
			"All others are about costs and speed, and are set high: where one is missed, Presence costs more or takes longer than that. ", met, all)
	}
	return text + "[What is not fast](#what-is-not-fast) lists each goal that is missed.\n\n"
}

// busy reports whether others used more than a quarter of the machine before the run.
func (r *report) busy() bool {
	cores, load := 0.0, 0.0
	for _, line := range r.Machine {
		if _, err := fmt.Sscanf(line, "load before: %f", &load); err != nil {
			_, _ = fmt.Sscanf(line, "%f cores", &cores)
		}
	}
	return load > cores/4
}

// table writes the figures of a row, a line for each side and place.
func (r *result) table(b *strings.Builder) {
	var figures, lines []string
	cells := map[string]map[string]string{}
	atUnit := ""
	for _, s := range r.Series {
		figure := s.Figure + ", " + s.Unit
		line := fmt.Sprintf("| %s | %s |", number(s.At), s.Of)
		if !slices.Contains(figures, figure) {
			figures = append(figures, figure)
		}
		if cells[line] == nil {
			lines = append(lines, line)
			cells[line] = map[string]string{}
		}
		cells[line][figure] = ranged(s.Values)
		atUnit = s.AtUnit
	}
	fmt.Fprintf(b, "| %s | |", atUnit)
	for _, figure := range figures {
		fmt.Fprintf(b, " %s |", figure)
	}
	b.WriteString("\n|---:|---|" + strings.Repeat("---|", len(figures)) + "\n")
	for _, line := range lines {
		b.WriteString(line)
		for _, figure := range figures {
			fmt.Fprintf(b, " %s |", cells[line][figure])
		}
		b.WriteString("\n")
	}
}

// middle is the median of a figure.
func (r *report) middle(row string, f figure, of string, at float64) float64 {
	for _, result := range r.Rows {
		if result.Name == row {
			if s := result.find(f.name, of, at); s != nil {
				_, middle, _ := spread(s.Values)
				return middle
			}
		}
	}
	return math.NaN()
}

// growth says how costs grow.
func (r *report) growth() string {
	of := func(row string, f figure, side string, at float64) string { return number(r.middle(row, f, side, at)) }
	times := func(row string, f figure, a, b float64) string {
		return number(r.middle(row, f, ours, a) / r.middle(row, f, ours, b))
	}
	return fmt.Sprintf(`- **Members.** A heartbeat in a room of 100,000 costs Redis %s times what it costs in a room of 1,000. So heartbeats cost about as much as there are members: %s ms of Redis for all 100,000, every heartbeat interval.
- **Rooms.** A join costs Redis %s times as much while there are 10,000 rooms as it does in the only one.
- **Callers.** Joins that come at the same time share a script: with 512 at a time each costs Redis %s µs, a lone one %s µs.
- **Watchers.** An update costs a replica %s µs for each of 100 pages and %s µs for each of 4,000. An event costs %s µs for each of 500 streams and %s µs for each of 5,000. So a change costs what its watchers cost, one by one.
- **Idle rooms.** 1,000 rooms in which nothing happens take %s %% of a core of a single replica, and 10,000 take %s %%. With three replicas, which share the sweeps, each takes %s and %s %%.
`,
		times("heartbeats", beatsRedis, 100_000, 1000), number(100*r.middle("heartbeats", beatsRedis, ours, 100_000)),
		times("rooms", roomsRedis, 10_000, 1),
		of("joins", joinsRedis, ours, 512), of("joins", joinsRedis, ours, 1),
		of("pages", pageUpdate, ours, 100), of("pages", pageUpdate, ours, 4000),
		of("streams", streamEvent, ours, 500), of("streams", streamEvent, ours, 5000),
		of("idle-rooms", idleReplica, oneReplica, 1000), of("idle-rooms", idleReplica, oneReplica, 10_000),
		of("idle-rooms", idleReplica, threeReplicas, 1000), of("idle-rooms", idleReplica, threeReplicas, 10_000))
}

// slow says what misses its goal, and what is slow by design.
func (r *report) slow() string {
	var b strings.Builder
	for _, row := range r.Rows {
		for _, v := range row.Goals {
			if !v.Met {
				fmt.Fprintf(&b, "- %s: %s: %s; the goal is %s.\n", row.Title, v.Figure, v.measured(), v.Goal)
			}
		}
	}
	fmt.Fprintf(&b, "- The first page that a browser loads, and each page that joins, is rendered by livetemplate for that visitor alone. Only what all see is rendered once.\n")
	fmt.Fprintf(&b, "- A lone join waits for one script of Redis, and its answer comes after %s µs here, of which %s µs are time of Redis; a join of centrifuge is answered after %s µs, in two calls.\n",
		number(r.middle("joins", joinsLate, ours, 1)), number(r.middle("joins", joinsRedis, ours, 1)), number(r.middle("joins", joinsLate, centrifuge, 1)))
	fmt.Fprintf(&b, "- A killed replica's members stay for up to the member TTL, %s s: they are not known to be gone before.\n", number(memberTTL.Seconds()))
	return b.String()
}
