// Package bench measures the server beside others that do the same, and beside what the
// machine can do at most. `make bench` runs it, and docs/performance.md is made of what it
// has measured.
//
//   - bench_test.go: which rows there are, and their goals
//   - measure_test.go: rounds, turns and what they note; the report
//   - redis_test.go: what members cost a Redis, beside centrifuge and raw commands
//   - pages_test.go: what live pages cost a replica, beside livetemplate by itself
//   - streams_test.go: what event streams cost a replica, beside raw writes
//   - replicas_test.go: what idle rooms cost, and what a killed replica leaves behind
//   - crowd_test.go, peers_test.go: processes that the others need
//   - document_test.go, plot_test.go: docs/performance.md and its plots
package bench

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	rowsFlag  = flag.String("row", "", "rows to measure, separated by commas, or all; none: the report of an earlier run is printed")
	quickFlag = flag.Bool("quick", false, "one round of each row, without what takes long, and without judging")
	jsonFlag  = flag.String("json", "out/report.json", "file for what was measured, which -doc reads")
	docFlag   = flag.Bool("doc", false, "write docs/performance.md and its plots")
)

func TestMain(m *testing.M) {
	servers := map[string]func(addr string) error{plainEnv: servePlain, writerEnv: serveWriter}
	for env, serve := range servers {
		if addr := os.Getenv(env); addr != "" {
			fmt.Fprintln(os.Stderr, serve(addr))
			os.Exit(1)
		}
	}
	if value := os.Getenv(crowdEnv); value != "" {
		beCrowd(value)
		return
	}
	os.Exit(m.Run())
}

// row is one thing that is measured.
type row struct {
	name  string // for -row
	title string
	run   func(m *measure)
	goals []goal
}

// Those that figures are of.
const (
	ours       = "presence"
	centrifuge = "centrifuge"
	lvt        = "livetemplate"
	raw        = "raw"
)

func rows() []row {
	return []row{
		{"heartbeats", "Heartbeats of one room, one caller, 500 a call", heartbeats, []goal{
			{figure: beatsRate, at: 100_000, than: centrifuge, least: 10},
			{figure: beatsRedis, at: 100_000, than: centrifuge, most: 1. / 10},
			{figure: beatsRedis, at: 100_000, than: ours, thanAt: 1000, most: 2},
		}},
		{"joins", "Joins, with an event of each, into a room of 100,000", joins, []goal{
			{figure: joinsRate, at: 512, than: centrifuge, least: 4},
			{figure: joinsRedis, at: 512, than: centrifuge, most: 1. / 4},
			{figure: joinsRedis, at: 1, most: 50},
		}},
		{"rooms", "Joins, with an event of each, while there are other rooms", rooms, []goal{
			{figure: roomsRedis, at: 10_000, than: ours, thanAt: 1, most: 1.5},
		}},
		{"memory", "Memory of Redis, 200,000 members of one room", memory, []goal{
			{figure: memoryEach, at: 200_000, than: centrifuge, most: 0.85},
		}},
		{"rooms-memory", "Memory of Redis, 10,000 rooms of 10 members", roomsMemory, nil},
		{"sweep", "100,000 members of one room run out at once", sweep, []goal{
			{figure: sweepLongest, at: 100_000, most: 2},
		}},
		{"pages", "Pages of a room of 5 names that changes", pages, []goal{
			{figure: pageUpdate, at: 500, most: 20},
			{figure: pageUpdate, at: 500, than: lvt, most: 1. / 12},
			{figure: pageUpdate, at: 4000, most: 20},
			{figure: pageUpdate, at: 4000, than: lvt, most: 1. / 12},
		}},
		{"idle-pages", "2,000 pages, idle for a minute", idlePages, []goal{
			{figure: pageMemory, at: 2000, most: 60},
		}},
		{"streams", "Event streams of a room of 5 names that changes", streamsCost, []goal{
			{figure: streamEvent, at: 5000, than: raw, most: 1.5},
		}},
		{"idle-streams", "Event streams, idle", idleStreams, []goal{
			{figure: streamMemory, at: 5000, most: 8},
			{figure: streamMemory, at: 20_000, most: 8},
		}},
		{"latency", "From a join on one replica to the event on each of 1,000 streams of another, -coalesce 10ms", latencies, []goal{
			{figure: latencyHalf, at: 50, most: 5},
			{figure: latencyMost, at: 50, most: 16},
			{figure: latencyMost, at: 500, most: 60},
		}},
		{"storm", "500 joins a second into a room of 1,000 to 6,000 whose members all watch", storm, []goal{
			{figure: stormMost, at: 6000, most: 250},
			{figure: stormCut, at: 6000, most: 0},
			{figure: stormRight, at: 6000, least: 100},
		}},
		{"kills", "20 replicas are killed", kills, []goal{
			{figure: killGone, at: killed, most: memberTTL.Seconds() + 1, worst: true},
			{figure: killTold, at: killed, least: 100, worst: true},
		}},
		{"idle-rooms", "Rooms in which nothing happens", idleRooms, []goal{
			{figure: idleReplica, of: oneReplica, at: 1000, most: 1},
			{figure: idleReplica, of: threeReplicas, at: 1000, most: 1},
		}},
	}
}

// TestBench measures the rows of -row, and fails when a goal is missed.
func TestBench(t *testing.T) {
	if *rowsFlag == "" && !*docFlag {
		t.Skip("make bench runs it")
	}
	if *rowsFlag != "" {
		r := newReport(t, *quickFlag)
		for _, row := range chosen(t, *rowsFlag) {
			r.measure(t, row)
			r.Took = time.Since(r.Began).Seconds()
			r.save(t, *jsonFlag) // the rows measured so far: the next may take long
		}
	}
	r := loadReport(t, *jsonFlag)
	fmt.Print(r.text())
	if *docFlag {
		r.document(t, "../../docs")
	}
	if missed := r.missed(); missed > 0 && !r.Quick && *rowsFlag != "" {
		t.Errorf("%d goals were missed", missed)
	}
}

// chosen are the rows of those names.
func chosen(t *testing.T, names string) (list []row) {
	t.Helper()
	if names == "all" {
		return rows()
	}
	for name := range strings.SplitSeq(names, ",") {
		i := slices.IndexFunc(rows(), func(r row) bool { return r.name == name })
		if i < 0 {
			var all []string
			for _, r := range rows() {
				all = append(all, r.name)
			}
			t.Fatalf("there is no row %q; there are all, %s", name, strings.Join(all, ", "))
		}
		list = append(list, rows()[i])
	}
	return list
}
