package chaos

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"presence/test/harness"
)

const (
	// calm is how long it may take at most after the last trouble until all is
	// right again: leases run out, those who closed their tabs leave, pages come
	// back, Redis gets back what it lost, and lost messages are made up for. On a
	// Cluster a replica may have to take the place of a master before that.
	calm     = ttl + time.Second + grace + time.Second + heartbeat + resync + slack
	takeOver = 4 * time.Second

	// still is for how long it has to stay so.
	still = 500 * time.Millisecond

	// lookEvery is the time between two looks.
	lookEvery = 100 * time.Millisecond
)

// truth is who is in a room, by what visitors know: name -> connections.
type truth map[string]int

func (tr truth) connections() int {
	n := 0
	for _, c := range tr {
		n += c
	}
	return n
}

func (tr truth) names() []string { return slices.Sorted(maps.Keys(tr)) }

// agree waits until all agree on who is there, and for a while afterwards that
// nothing changes. It returns how long it took, who is there, and what was still
// wrong after the time allowed.
func (w *world) agree(people []*person) (took time.Duration, there map[string]truth, wrong []string) {
	begun := time.Now()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var right time.Time
	for {
		there, wrong = w.look(people, begun)
		now := time.Now()
		switch {
		case len(wrong) > 0 && now.Sub(begun) > w.calm():
			return now.Sub(begun), there, wrong
		case len(wrong) > 0:
			right = time.Time{}
		case right.IsZero():
			right = now
		case now.Sub(right) > still:
			return right.Sub(begun), there, nil
		}
		<-tick.C
	}
}

// calm is how long it may take until all agree.
func (w *world) calm() time.Duration {
	if w.cluster != nil {
		return calm + takeOver
	}
	return calm
}

// look compares everything with everything, the pages first: the rest only when
// they agree.
func (w *world) look(people []*person, begun time.Time) (there map[string]truth, wrong []string) {
	there = map[string]truth{}
	for _, room := range rooms {
		there[room] = truth{}
	}
	sights := map[*tab]harness.Sight{}
	sockets, members := 0, 0
	for _, p := range people {
		p.mu.Lock()
		for _, tb := range p.tabs {
			if tb.visitor == nil {
				continue
			}
			now := tb.visitor.Now()
			sights[tb] = now
			if p.habit != plain {
				sockets++
			}
			if why := tb.unfit(now, begun); why != "" {
				wrong = append(wrong, fmt.Sprintf("%v tab %d %s: %v", p, tb.slot, why, now))
			}
			if now.Joined {
				there[p.room][now.Name]++
				if p.habit != plain {
					members++
				}
			}
		}
		p.mu.Unlock()
	}
	counts := map[string][]string{}
	for tb, now := range sights {
		want := there[tb.p.room]
		if now.Users != len(want) {
			what := fmt.Sprintf("%d users in %s, want %d", now.Users, tb.p.room, len(want))
			counts[what] = append(counts[what], fmt.Sprintf("P%02d by %s", tb.p.index, now.Replica))
		}
		if tb.p.habit == looker {
			if diff := difference(lines(now.Names), want.names()); diff != "" {
				wrong = append(wrong, fmt.Sprintf("the names on the page of %v: %s", tb.p, diff))
			}
		}
	}
	for what, pages := range counts {
		slices.Sort(pages)
		wrong = append(wrong, fmt.Sprintf("%d pages show %s, such as that of %s", len(pages), what, pages[0]))
	}
	slices.Sort(wrong)
	if len(wrong) > 0 {
		return there, wrong
	}
	wrong = append(wrong, w.lookAtReplicas(there, sockets, members)...)
	wrong = append(wrong, w.lookAtRedis(there)...)
	return there, wrong
}

// unfit says what is wrong with a page by itself, or "".
func (tb *tab) unfit(now harness.Sight, begun time.Time) string {
	switch {
	case tb.p.habit == plain && (len(tb.loads) == 0 || !tb.loads[len(tb.loads)-1].ok || tb.loads[len(tb.loads)-1].begun.Before(begun)):
		return "was not loaded again"
	case tb.p.habit != plain && !now.Socket:
		return "is not live"
	case !now.Known:
		return "shows no count"
	case now.Stale:
		return "is stale"
	case !tb.may[joinedAs(now)]:
		return fmt.Sprintf("is joined as %q, want %v", joinedAs(now), tb.mayList())
	}
	return ""
}

// lines splits text that has a name in each line.
func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// difference says how a list differs from what it should be, in any order.
func difference(got, want []string) string {
	count := map[string]int{}
	for _, s := range want {
		count[s]++
	}
	for _, s := range got {
		count[s]--
	}
	var missing, many []string
	for s, n := range count {
		switch {
		case n > 0:
			missing = append(missing, s)
		case n < 0:
			many = append(many, s)
		}
	}
	if len(missing)+len(many) == 0 {
		return ""
	}
	slices.Sort(missing)
	slices.Sort(many)
	return fmt.Sprintf("missing %q, too many %q", missing, many)
}

// lookAtReplicas asks each replica's API and metrics.
func (w *world) lookAtReplicas(there map[string]truth, sockets, members int) (wrong []string) {
	sum := map[string]int{}
	for i, r := range w.replicas {
		if status, _, err := get(r.URL + "/readyz"); err != nil || status != http.StatusOK {
			wrong = append(wrong, fmt.Sprintf("/readyz of replica %d: %d, %v", i+1, status, err))
		}
		for _, room := range rooms {
			var got struct {
				Users, Connections int
				Stale              bool
			}
			status, body, err := get(r.URL + "/v1/rooms/" + room)
			if err == nil {
				err = json.Unmarshal(body, &got)
			}
			want := there[room]
			if err != nil || status != http.StatusOK || got.Stale || got.Users != len(want) || got.Connections != want.connections() {
				wrong = append(wrong, fmt.Sprintf("replica %d says of %s: %d %s %v, want %d users on %d connections",
					i+1, room, status, strings.TrimSpace(string(body)), err, len(want), want.connections()))
			}
		}
		_, body, err := get(r.AdminURL + "/metrics")
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("metrics of replica %d: %v", i+1, err))
			continue
		}
		for text := bufio.NewScanner(strings.NewReader(string(body))); text.Scan(); {
			name, value, _ := strings.Cut(text.Text(), " ")
			n, _ := strconv.ParseFloat(value, 64)
			sum[name] += int(n)
		}
	}
	for name, want := range map[string]int{"presence_viewers": sockets, "presence_local_members": members} {
		if sum[name] != want {
			wrong = append(wrong, fmt.Sprintf("%s is %d in all, want %d", name, sum[name], want))
		}
	}
	return wrong
}

// get asks one of the servers something.
func get(url string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer reply.Body.Close()
	body, err = readAll(reply.Body)
	return reply.StatusCode, body, err
}

// lookAtRedis holds the keys of each room against each other and against who is
// there. What they hold is in internal/store/doc.go.
func (w *world) lookAtRedis(there map[string]truth) (wrong []string) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	for _, room := range rooms {
		say := func(format string, args ...any) {
			wrong = append(wrong, "Redis, "+room+": "+fmt.Sprintf(format, args...))
		}
		key := "presence:{" + room + "}:"
		redis := w.redisOf(room)
		pipe := redis.TxPipeline()
		online, beats := pipe.SMembers(ctx, key+"online"), pipe.ZRange(ctx, key+"beats", 0, -1)
		conns, refs := pipe.HGetAll(ctx, key+"conns"), pipe.HGetAll(ctx, key+"refs")
		users, roster := pipe.HGetAll(ctx, key+"users"), pipe.ZRange(ctx, key+"roster", 0, -1)
		keys := pipe.Keys(ctx, strings.ReplaceAll(strings.ReplaceAll(key, "{", `\{`), "}", `\}`)+"*")
		_, _ = pipe.Exec(ctx) // each has its own error
		listed := w.admin.ZScore(ctx, "presence:rooms", room)
		for _, err := range []error{online.Err(), beats.Err(), conns.Err(), refs.Err(), users.Err(), roster.Err(), keys.Err()} {
			if err != nil {
				say("%v", err)
				return wrong
			}
		}
		// conns: connection -> "<generation><user>"; users: user -> "<since> <name>".
		connections, named, leases := map[string]int{}, map[string]string{}, []string{}
		for conn, value := range conns.Val() {
			generation, user := value[:4], value[4:]
			connections[user]++
			_, row, _ := strings.Cut(users.Val()[user], " ")
			named[user], _, _ = strings.Cut(row, "\n") // metadata, or the mark of a guest
			leases = append(leases, conn+generation)
		}
		byName := truth{}
		for user, n := range connections {
			byName[named[user]] += n
		}
		if !maps.Equal(byName, there[room]) {
			say("conns has %v, want %v", byName, there[room])
		}
		if diff := difference(online.Val(), slices.Collect(maps.Keys(connections))); diff != "" {
			say("online and conns differ: %s", diff)
		}
		if diff := difference(beats.Val(), leases); diff != "" {
			say("beats and conns differ: %s", diff)
		}
		for user, n := range connections {
			if got, want := cmp.Or(refs.Val()[user], "1"), strconv.Itoa(n); got != want {
				say("refs of %s is %s, want %s", named[user], got, want)
			}
		}
		for user := range refs.Val() {
			if connections[user] < 2 {
				say("refs has %s, who has %d connections", user, connections[user])
			}
		}
		for what, listed := range map[string][]string{"roster": roster.Val(), "users": slices.Collect(maps.Keys(users.Val()))} {
			if diff := difference(listed, slices.Collect(maps.Keys(connections))); diff != "" {
				say("%s and conns differ: %s", what, diff)
			}
		}
		if len(there[room]) > 0 && listed.Err() != nil {
			say("is not on the list of rooms: %v", listed.Err())
		}
		for _, key := range keys.Val() {
			if life, err := redis.PTTL(ctx, key).Result(); err != nil || life == -1 {
				say("%s lives for ever (%v, %v)", key, life, err)
			}
		}
	}
	return wrong
}

// settled makes what the pages show what is known from now on.
func settled(people []*person) {
	for _, p := range people {
		p.mu.Lock()
		for _, tb := range p.tabs {
			if tb.visitor != nil {
				tb.be(joinedAs(tb.visitor.Now()))
			}
		}
		p.mu.Unlock()
	}
}
