package store

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// peerMemory is how long a silent replica is remembered.
const peerMemory = time.Minute

// Peer is a replica as the other replicas see it.
type Peer struct {
	ID string

	// Silent is the time since the replica's last announcement, by the clock of Redis.
	Silent time.Duration

	// Sweeps says that the replica takes its share of the rooms to sweep.
	Sweeps bool

	// About is the replica's description of itself.
	About string
}

// Announce announces that the replica id is alive. It returns all replicas that were
// heard of within the last minute, this one included.
func (s *Store) Announce(ctx context.Context, id string, sweeps bool, about string) (peers []Peer, err error) {
	flag := "0"
	if sweeps {
		flag = "1"
	}
	c := &call{script: announceScript, keys: []string{s.keys.replicas()}, args: []any{id, flag, about, peerMemory.Milliseconds()}}
	if s.run(ctx, c); c.err != nil {
		return nil, fmt.Errorf("announce: %w", c.err)
	}
	r := replyOf(c.reply)
	for r.more() {
		peers = append(peers, Peer{
			ID: r.text(), Silent: time.Duration(r.int()) * time.Millisecond, Sweeps: r.int() == 1, About: r.text(),
		})
	}
	if r.err != nil {
		return nil, fmt.Errorf("announce: %w", r.err)
	}
	return peers, nil
}

// Depart says that the replica id is ending.
func (s *Store) Depart(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	if err := s.rdb.HDel(ctx, s.keys.replicas(), id).Err(); err != nil {
		return fmt.Errorf("depart: %w", classify(err))
	}
	return nil
}

// Looked is the result of a look at the leases of a room.
type Looked struct {
	// First is when the first lease ends, in ms by the clock of Redis; 0 if there is no
	// lease.
	First int64

	// Err is why the room was perhaps not looked at.
	Err error
}

// Look finds when the first lease of each room ends, in one round trip. It is far cheaper
// than a sweep, and is enough as long as no lease has ended.
func (s *Store) Look(ctx context.Context, rooms []string) []Looked {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	pipe := s.rdb.Pipeline()
	cmds := make([]*redis.ZSliceCmd, len(rooms))
	for i, room := range rooms {
		cmds[i] = pipe.ZRangeWithScores(ctx, s.keys.beats(room), 0, 0)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	looked := make([]Looked, len(rooms))
	for i, cmd := range cmds {
		first, err := cmd.Result()
		if err != nil {
			looked[i].Err = fmt.Errorf("look at %s: %w", rooms[i], classify(err))
		} else if len(first) > 0 {
			looked[i].First = int64(first[0].Score)
		}
	}
	return looked
}
