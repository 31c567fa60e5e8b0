// Command peers does in a Redis what centrifuge does for presence, for the benchmark beside
// it to compare with. It is a module of its own, so that the server does not depend on any
// of this.
//
// It reads lines "<what> <callers> <first> <number>" and does that for so many clients, of
// which the first has the number first, by so many callers, each of which waits for its
// answer before the next. Then it writes a line with the seconds that it took. what is
//
//	add    a client is present, or still is
//	join   a client is present, and others are told
//	spread a client is present, each ten in a channel of their own
//	count  how many are present, asked number times
package main

import (
	"bufio"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/centrifugal/centrifuge"
)

func main() {
	address := flag.String("redis", "", "redis://user:password@host:port")
	mapping := flag.Bool("mapping", false, "distinct users are counted, too")
	ttl := flag.Duration("ttl", time.Minute, "how long a client is present")
	flag.Parse()
	if err := run(*address, *mapping, *ttl); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const channel = "r"

func run(address string, mapping bool, ttl time.Duration) error {
	node, err := centrifuge.New(centrifuge.Config{LogLevel: centrifuge.LogLevelNone})
	if err != nil {
		return err
	}
	shard, err := centrifuge.NewRedisShard(node, centrifuge.RedisShardConfig{Address: address})
	if err != nil {
		return err
	}
	shards := []*centrifuge.RedisShard{shard}
	broker, err := centrifuge.NewRedisBroker(node, centrifuge.RedisBrokerConfig{Shards: shards})
	if err != nil {
		return err
	}
	presence, err := centrifuge.NewRedisPresenceManager(node, centrifuge.RedisPresenceManagerConfig{
		Shards: shards, PresenceTTL: ttl,
		EnableUserMapping: func(string) bool { return mapping },
	})
	if err != nil {
		return err
	}
	do := map[string]func(i int) error{
		"add": func(i int) error {
			info := infoOf(i)
			return presence.AddPresence(channel, info.ClientID, info)
		},
		"spread": func(i int) error {
			info := infoOf(i % 10)
			return presence.AddPresence(fmt.Sprint("room", i/10), info.ClientID, info)
		},
		"join": func(i int) error {
			info := infoOf(i)
			if err := presence.AddPresence(channel, info.ClientID, info); err != nil {
				return err
			}
			return broker.PublishJoin(channel, info)
		},
		"count": func(int) error {
			_, err := presence.PresenceStats(channel)
			return err
		},
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var what string
		var callers, first, n int
		if _, err := fmt.Sscan(lines.Text(), &what, &callers, &first, &n); err != nil {
			return err
		}
		began := time.Now()
		if err := all(callers, first, n, do[what]); err != nil {
			return err
		}
		fmt.Println(time.Since(began).Seconds())
	}
	return nil
}

// infoOf is the i-th client, with ids and a name of the lengths that the other side has.
func infoOf(i int) *centrifuge.ClientInfo {
	return &centrifuge.ClientInfo{
		ClientID: fmt.Sprintf("conn%012d", i), UserID: fmt.Sprintf("user%012d", i),
		ConnInfo: fmt.Appendf(nil, `"name%06d"`, i),
	}
}

// all has callers do something for first and the n-1 after it.
func all(callers, first, n int, do func(i int) error) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var calling sync.WaitGroup
	for range callers {
		calling.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && failed.Load() == nil; i = int(next.Add(1)) - 1 {
				if err := do(first + i); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	calling.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}
