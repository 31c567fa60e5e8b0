package redistest

import (
	"testing"
	"testing/synctest"

	"github.com/redis/go-redis/v9"
)

// The first is the check value of the checksum, by which a Cluster has slots.
func TestSlotsAreThoseOfACluster(t *testing.T) {
	for key, want := range map[string]int{"123456789": 0x31c3, "{123456789}:x": 0x31c3, "presence:{lobby}:conns": 10294} {
		if got := slotOf(key); got != want {
			t.Errorf("%s has the slot %d, want %d", key, got, want)
		}
	}
}

// A slot that is moved goes with all its keys, and clients follow.
func TestMovedSlotIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewFakeCluster(t, 3)
		client, ctx := c.Client(t), t.Context()
		from := c.NodeOf("{lobby}")
		client.Set(ctx, "{lobby}:text", "here", 0)
		client.ZAdd(ctx, "{lobby}:list", redis.Z{Score: 7, Member: "Ann"})
		if err := c.Move("{lobby}", (from+1)%3); err != nil {
			t.Fatal(err)
		}
		text, err := client.Get(ctx, "{lobby}:text").Result()
		score, second := client.ZScore(ctx, "{lobby}:list", "Ann").Result()
		if text != "here" || score != 7 || err != nil || second != nil || len(c.Nodes[from].Keys()) != 0 {
			t.Errorf("%q %v, %v %v; left behind: %v", text, err, score, second, c.Nodes[from].Keys())
		}
	})
}
