package redistest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// TestScriptsAsInMiniredis runs scripts on a Fake and on a miniredis that has an
// interpreter for each call.
func TestScriptsAsInMiniredis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := NewFake(t)
		ours := fake.Client(t)
		plain := miniredis.NewMiniRedis()
		t.Cleanup(plain.Close)
		if c, err := plain.Dial(); err != nil { // starts it
			t.Fatal(err)
		} else {
			_ = c.Close()
		}
		theirs := (&Fake{Miniredis: plain}).Client(t)
		for _, text := range []string{
			"return {1, 'a', {2, 'b'}, false, 3}",
			"return {1, nil, 3}",
			"return 1.9",
			"return true",
			"return",
			"return {ok = 'fine'}",
			"return {err = 'WRONG in every way'}",
			"return {KEYS[1], KEYS[2], #KEYS, ARGV[1], ARGV[2], #ARGV}",
			"return redis.call('SET', KEYS[1], 12)",
			"return redis.call('GET', KEYS[1])",
			"return redis.call('GET', KEYS[2])",
			"return redis.call('RPUSH', KEYS[2], 'x', 1, 1.5)",
			"return redis.call('LRANGE', KEYS[2], 0, -1)",
			"return redis.pcall('LRANGE', KEYS[1], 0, -1)",
			"return redis.pcall('LRANGE', KEYS[1], 0, -1).err",
			"return redis.pcall('GETT', KEYS[1])",
			"return string.format('%.0f', 1e15) .. math.floor(2.5) .. table.concat({'a', 'b'}) .. tostring(tonumber('12'))",
			"return {redis.call('HSET', 'h', 'a', 1), redis.call('HGETALL', 'h'), redis.call('HMGET', 'h', 'a', 'b')}",
			"local a, b = unpack(ARGV) return {b, a}",
			"local a, b = string.match('12 c3', '^(%d+) (c?%d+)$') return {a, b, string.match('12 c3', '^(%d+) (c?%d+)$')}",
			"return {string.match('a', '%d') or 'none', string.match('a', '%d') or 'none', ('ab'):match('^a()'), string.match('aa1', '%d', 2)}",
		} {
			ask := func(rdb redis.UniversalClient) string {
				v, err := rdb.Eval(t.Context(), text, []string{"one", "two"}, "x", 7).Result()
				return fmt.Sprintf("%#v, %v", v, err)
			}
			if got, want := ask(ours), ask(theirs); got != want {
				t.Errorf("%s\nis  %s\nnot %s", text, got, want)
			}
		}
	})
}

// TestScriptsLeaveNothing has scripts fail, and the next one works.
func TestScriptsLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := NewFake(t)
		rdb := fake.Client(t)
		for text, want := range map[string]string{
			"x = 1":                                  "'x'",
			"return y":                               "'y'",
			"return redis.call('HLEN', KEYS[1])":     "script: script:1: WRONGTYPE",
			"error({err = 'ERR script: by itself'})": "ERR script: by itself",
			"local t = {} return t.a.b":              "script",
			"return redis.call({})":                  "must be strings or integers",
			"return (":                               "script",
			"return redis.call('GETT', KEYS[1])":     "Unknown Redis command called from script",
		} {
			if err := rdb.Set(t.Context(), "k", "v", 0).Err(); err != nil {
				t.Fatal(err)
			}
			if err := rdb.Eval(t.Context(), text, []string{"k"}).Err(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, not %s", text, err, want)
			}
			if v, err := rdb.Eval(t.Context(), "return ARGV[1]", nil, text).Result(); err != nil || v != text {
				t.Errorf("after %s: %v, %v", text, v, err)
			}
		}
		known := redis.NewScript("return 1")
		if err := known.EvalSha(t.Context(), rdb, nil).Err(); err == nil || !strings.HasPrefix(err.Error(), "NOSCRIPT") {
			t.Errorf("an unknown script: %v", err)
		}
		for range 2 {
			if n, err := known.Run(t.Context(), rdb, nil).Int(); err != nil || n != 1 {
				t.Errorf("a script by its hash: %v, %v", n, err)
			}
		}
		fake.Down()
		if err := known.EvalSha(context.Background(), rdb, nil).Err(); err == nil {
			t.Error("a script ran while the server was gone")
		}
		fake.Up()
		if err := known.EvalSha(t.Context(), rdb, nil).Err(); err != nil {
			t.Error(err)
		}
	})
}
