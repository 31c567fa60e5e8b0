package replica

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"presence/internal/store"
)

const (
	// maxAnnounce is the longest time between two announcements.
	maxAnnounce = time.Second

	// maxCleared is how many cleared rooms a replica announces, and clearedFor for how
	// long. The other replicas learn of more rooms by their next heartbeats.
	maxCleared = 100
	clearedFor = 5 * time.Second
)

// announcement is what a replica tells the other replicas about itself.
type announcement struct {
	Self

	// Cleared lists the rooms whose damaged data this replica has just deleted.
	// Replicas that have members in them put these members back.
	Cleared []cleared `json:"cleared,omitempty"`
}

// cleared is a room that a replica has cleared. Number counts the rooms that this
// replica has cleared.
type cleared struct {
	Room   string `json:"room"`
	Number int    `json:"number"`
	at     time.Time
}

// Self describes a replica to the others.
type Self struct {
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Since   time.Time `json:"since"`

	// Settings are the settings that all replicas should share, by name.
	Settings map[string]string `json:"settings"`
}

// Peer is one of the replicas that share a Redis: this one or another.
type Peer struct {
	Self

	// ID is new at each start.
	ID string `json:"id"`

	// This says that the peer is the replica that made the list.
	This bool `json:"this"`

	// Sweeps says that the peer takes its share of the rooms to sweep. It takes none
	// while replicas may have been unable to renew their leases.
	Sweeps bool `json:"sweeps"`

	// Silent is the time since its last announcement, in ms.
	Silent int64 `json:"silent_ms"`
}

// peers holds the replicas that share the Redis, as they announce themselves, and
// divides the rooms to sweep among them. A room belongs to the replica with the highest
// score for it (rendezvous hashing: Thaler and Ravishankar, 1998), so few rooms change
// hands when a replica comes or goes.
type peers struct {
	id    string
	self  Self
	every time.Duration // between two announcements

	// Owned by runSweep.
	announced  time.Time
	heard      time.Time
	sweepers   []string // ids of the replicas that sweep, sorted; if empty, each replica sweeps all rooms
	generation int      // counts changes of sweepers
	warned     map[string]bool
	taken      map[string]int // replica -> number of its last cleared room that is known here

	mu      sync.Mutex // guards:
	list    []Peer
	cleared []cleared
	number  int
}

func newPeers(o Options) *peers {
	return &peers{
		id: rand.Text()[:12], self: o.Self, every: min(maxAnnounce, o.MemberTTL/20),
		generation: 1, warned: map[string]bool{}, taken: map[string]int{},
	}
}

// clears notes that this replica has cleared room, so that it announces this.
func (p *peers) clears(room string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.number++
	if len(p.cleared) < maxCleared {
		p.cleared = append(p.cleared, cleared{room, p.number, time.Now()})
	}
}

// about returns the announcement of this replica.
func (p *peers) about() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleared = slices.DeleteFunc(p.cleared, func(c cleared) bool { return time.Since(c.at) > clearedFor })
	about, _ := json.Marshal(announcement{p.self, p.cleared}) // can't fail
	return string(about)
}

// began is the zero of our clock.
var began = time.Now() //nolint:gochecknoglobals // a constant of the process

// clock returns our clock, in ms. It is never stepped.
func clock() int64 { return time.Since(began).Milliseconds() }

// offset is by how many ms a clock of Redis is ahead of ours; 0 means not yet known.
type offset int64

// sees takes what a clock of Redis showed (at), in ms, at some instant between before
// and after of our clock. It returns the new offset, and by how many ms the clock was
// stepped, or 0. An answer that took long is imprecise: it counts as a step only if the
// clock can't have been what was expected.
func (o offset) sees(at, before, after int64) (now offset, step int64) {
	low, high := offset(at-after), offset(at-before)
	if o == 0 {
		return (low + high) / 2, 0
	}
	now = min(max(o, low), high)
	if by := int64(now - o); by > slew || by < -slew {
		return now, by
	}
	return now, 0
}

// slew is store.MaxSlew in ms.
const slew = int64(store.MaxSlew / time.Millisecond)

// Peers lists the replicas that share the Redis and have announced themselves in the last
// minute, by name.
func (r *Replica) Peers() []Peer {
	r.peers.mu.Lock()
	defer r.peers.mu.Unlock()
	return slices.Clone(r.peers.list)
}

// announceOnce announces this replica when it is time to, and learns which replicas
// sweep. sweeps says whether this replica does. A replica that was away, or has just
// started, does not, because it has to spare leases that other replicas may end.
func (r *Replica) announceOnce(ctx context.Context, sweeps bool) {
	p := r.peers
	now := time.Now()
	if now.Sub(p.announced) < p.every {
		return
	}
	p.announced = now
	known, err := r.store.Announce(ctx, p.id, sweeps, p.about())
	switch {
	case err == nil:
		p.heard = time.Now()
		p.share(known)
		r.hear(ctx, known)
	case r.roomFailed(ctx, "", err), time.Since(p.heard) > p.silence():
		p.share(nil)
	}
}

// silence is the time after which a replica counts as gone.
func (p *peers) silence() time.Duration { return 3 * p.every }

// share notes the known replicas, and which of them sweep.
func (p *peers) share(known []store.Peer) {
	var sweepers []string
	list := make([]Peer, 0, len(known))
	for _, k := range known {
		if k.Sweeps && k.Silent <= p.silence() {
			sweepers = append(sweepers, k.ID)
		}
		peer := Peer{ID: k.ID, This: k.ID == p.id, Sweeps: k.Sweeps, Silent: k.Silent.Milliseconds()}
		_ = json.Unmarshal([]byte(k.About), &peer.Self) // a later version of the server may announce other fields
		list = append(list, peer)
	}
	slices.Sort(sweepers)
	if !slices.Equal(sweepers, p.sweepers) {
		p.sweepers = sweepers
		p.generation++
	}
	slices.SortFunc(list, func(a, b Peer) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = list
}

// hear reads the announcements of the other replicas.
func (r *Replica) hear(ctx context.Context, known []store.Peer) {
	p := r.peers
	there := make(map[string]bool, len(known))
	for _, k := range known {
		there[k.ID] = true
		var peer announcement
		if k.ID == p.id || json.Unmarshal([]byte(k.About), &peer) != nil {
			continue
		}
		for _, c := range peer.Cleared {
			if c.Number > p.taken[k.ID] {
				p.taken[k.ID] = c.Number
				r.wasCleared(ctx, c.Room)
			}
		}
		if p.warned[k.ID] {
			continue
		}
		var differ []string
		for _, name := range slices.Sorted(maps.Keys(p.self.Settings)) {
			if theirs, ok := peer.Settings[name]; ok && theirs != p.self.Settings[name] {
				differ = append(differ, name+": here "+p.self.Settings[name]+", there "+theirs)
			}
		}
		if len(differ) > 0 {
			p.warned[k.ID] = true
			r.log.WarnContext(ctx, "replicas have different settings", "other", peer.Name, "settings", strings.Join(differ, "; "))
		}
	}
	maps.DeleteFunc(p.warned, func(id string, _ bool) bool { return !there[id] })
	maps.DeleteFunc(p.taken, func(id string, _ int) bool { return !there[id] })
}

// wasCleared puts back this replica's members of a room that another replica has
// cleared.
func (r *Replica) wasCleared(ctx context.Context, room string) {
	if len(r.members.inRoom(room)) == 0 && len(r.puts.toRestore(room)) == 0 {
		return
	}
	r.losses.over(room) // members that were put back before this are gone again
	r.views.MarkLost(room, r.Lost(ctx, room))
}

// sweeps reports whether room belongs to this replica.
func (p *peers) sweeps(room string) bool {
	if len(p.sweepers) == 0 {
		return true
	}
	var best string
	var most uint64
	for _, id := range p.sweepers {
		if score := score(id, room); best == "" || score > most {
			best, most = id, score
		}
	}
	return best == p.id
}

// score is 64-bit FNV-1a of a replica and a room, mixed by the finalizer of
// MurmurHash3. All replicas must compute the same score.
func score(id, room string) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range [...]string{id, "\x00", room} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
