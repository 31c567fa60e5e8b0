package store

import "testing"

// A key that a script empties and fills again is a new key, without a time to live.
func TestKeysEndOfARoomWhoseOnlyUserBecameAnother(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		join(t, s, "lobby", conn("c1", "gen1", "Ann"))
		join(t, s, "lobby", conn("c1", "gen1", "Ben"))
		check(t, s, "lobby", 1, "Ben")
		for _, key := range s.keys.room("lobby") {
			if life := must(e.admin.PTTL(t.Context(), key).Result()); life == -1 {
				t.Errorf("%s lives for ever", key)
			}
		}
	})
}
