package store

import (
	"context"
	"errors"
	"io"
	"testing"

	"presence/internal/presence"
)

// replyError is an error in an answer of Redis.
type replyError string

func (e replyError) Error() string { return string(e) }
func (replyError) RedisError()     {}

func TestWhoseTroubleAnErrorIs(t *testing.T) {
	const script6 = "ERR Error running script (call to f_3f): @user_script:12: "
	const script7 = " script: 3f, on @user_script:12."
	for text, want := range map[string]error{
		"LOADING Redis is loading the dataset in memory":                                       presence.ErrUnavailable,
		"MASTERDOWN Link with MASTER is down":                                                  presence.ErrUnavailable,
		"CLUSTERDOWN The cluster is down":                                                      presence.ErrUnavailable,
		"READONLY You can't write against a read only replica." + script7:                      presence.ErrUnavailable,
		script6 + "-READONLY You can't write against a read only replica.":                     presence.ErrUnavailable,
		"MISCONF Errors writing to the AOF file: No space left on device" + script7:            presence.ErrUnavailable,
		"NOREPLICAS Not enough good replicas to write." + script7:                              presence.ErrUnavailable,
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL":                   presence.ErrUnavailable,
		"NOAUTH Authentication required.":                                                      presence.ErrUnavailable,
		"WRONGPASS invalid username-password pair or user is disabled.":                        presence.ErrUnavailable,
		"NOPERM this user has no permissions to run the 'evalsha' command":                     presence.ErrUnavailable,
		"ERR ACL failure in script: User x has no permissions to run the 'zadd' command":       presence.ErrUnavailable,
		"ERR max number of clients reached":                                                    presence.ErrUnavailable,
		"ERR unknown command 'evalsha'":                                                        presence.ErrUnavailable,
		"ERR the proxy in between has lost its server":                                         presence.ErrUnavailable,
		"OOM command not allowed when used memory > 'maxmemory'." + script7:                    presence.ErrFull,
		script6 + "-OOM command not allowed when used memory > 'maxmemory'.":                   presence.ErrFull,
		"WRONGTYPE Operation against a key holding the wrong kind of value":                    presence.ErrDamaged,
		"WRONGTYPE Operation against a key holding the wrong kind of value" + script7:          presence.ErrDamaged,
		script6 + "WRONGTYPE Operation against a key holding the wrong kind of value":          presence.ErrDamaged,
		"ERR user_script:20: attempt to perform arithmetic on local 'blank' (a nil)" + script7: presence.ErrDamaged,
	} {
		if err := classify(replyError(text)); !errors.Is(err, want) {
			t.Errorf("%q is %v, want %v", text, err, want)
		}
	}
	for _, err := range []error{io.EOF, context.DeadlineExceeded, errStopped} {
		if got := classify(err); !errors.Is(got, presence.ErrUnavailable) || !errors.Is(got, err) {
			t.Errorf("%v is %v, want %v", err, got, presence.ErrUnavailable)
		}
	}
}

// breaks returns ways to break the data of one room.
func breaks(ctx context.Context, e *env, s *Store, room string) map[string]func() error {
	all := map[string]func() error{
		"a connection without a user": func() error { return e.admin.HSet(ctx, s.keys.conns(room), "c1", "gibberish").Err() },
	}
	for _, key := range s.keys.room(room) {
		if key == s.keys.log(room) {
			continue // begun anew by the next change
		}
		all[key+" of a wrong type"] = func() error {
			e.admin.Del(ctx, key)
			if key == s.keys.version(room) {
				return e.admin.LPush(ctx, key, "x").Err()
			}
			return e.admin.Set(ctx, key, "x", 0).Err()
		}
	}
	return all
}

// Whatever is wrong with the keys of a room, it does not count as an error of Redis, and
// affects no other room.
func TestDamagedRoomIsAlone(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		s := e.store(t, Options{})
		join(t, s, "good", conn("c0", "gen1", "Ann"))
		for name, damage := range breaks(ctx, e, s, "bad") {
			e.admin.Del(ctx, s.keys.room("bad")...)
			join(t, s, "bad", conn("c1", "gen1", "Ben"))
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			var errs []error
			note := func(err error) { errs = append(errs, err) }

			beats := []*Beats{
				{Room: "bad", Holders: []Holder{{"c1", "gen1"}}},
				{Room: "good", Holders: []Holder{{"c0", "gen1"}}},
			}
			s.Heartbeat(ctx, beats)
			note(beats[0].Err)
			if beats[1].Err != nil || len(beats[1].Lost) > 0 {
				t.Errorf("%s: heartbeat of the good room: %v, lost %v", name, beats[1].Err, beats[1].Lost)
			}
			readings, err := s.Read(ctx, Have{Room: "bad"}, Have{Room: "good"})
			if err != nil || readings[1].Err != nil || readings[1].Users != 1 {
				t.Errorf("%s: reading: %v, the good room: %+v", name, err, readings)
			} else {
				note(readings[0].Err)
			}
			swept := s.Sweep(ctx, []string{"bad", "good"}, Terms{})
			note(swept[0].Err)
			if swept[1].Err != nil || swept[1].Users != 1 {
				t.Errorf("%s: sweep of the good room: %+v", name, swept[1])
			}
			_, err = s.Join(ctx, "bad", conn("c1", "gen1", "Ben"))
			note(err)
			_, _, _, err = s.Find(ctx, "bad", "c1")
			note(err)
			_, _, _, err = s.Resume(ctx, "bad", "c1", "gen2")
			note(err)
			note(s.Release(ctx, "bad", "c1", "gen2"))
			_, err = s.Leave(ctx, "bad", "c1", "")
			note(err)

			found := false
			for i, err := range errs {
				found = found || err != nil
				if err != nil && !errors.Is(err, presence.ErrDamaged) {
					t.Errorf("%s: call %d: %v, want %v", name, i, err, presence.ErrDamaged)
				}
			}
			if !found {
				t.Errorf("%s: no call noticed", name)
			}
		}
	})
}

// A damaged epoch counts as lost.
func TestDamagedEpochIsNoOutage(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		s := e.store(t, Options{})
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		e.admin.LPush(t.Context(), s.keys.epoch(""), "x")
		if readings, err := s.Read(t.Context(), Have{Room: "r"}); err != nil || readings[0].Epoch.Text != "" || readings[0].Users != 1 {
			t.Errorf("%+v, %v", readings, err)
		}
	})
}
