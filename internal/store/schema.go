package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// schema is the number of the data's layout in Redis. It changes when servers of two
// versions could not work on the same data.
//
//	1  names in the connections, no log; did not store its number
//	2  names and metadata in users, changes in the log, an index of rooms
const schema = "2"

// schemaPatience is how long rooms without a schema are tolerated. When Redis has lost
// all data, a running replica puts the schema back within that time.
const schemaPatience = 4 * time.Second

var (
	// ErrSchema is returned by [Store.Check] when the data belong to another version of
	// the server.
	ErrSchema = errors.New("Redis holds data of another version of this server")

	// ErrNoScripts is returned by [Store.Check] when Redis does not run Lua scripts.
	ErrNoScripts = errors.New("this Redis runs no Lua scripts, which are all that this server does: " +
		"allow EVAL and EVALSHA to its user, or use another Redis")
)

// Check finds out whether this server can work with this Redis and its data. It marks an
// empty Redis as one of this version. An error that wraps [ErrSchema] or [ErrNoScripts]
// is final. After [presence.ErrUnavailable] nothing is known yet.
func (s *Store) Check(ctx context.Context) error {
	if err := s.checkScripts(ctx); err != nil {
		return err
	}
	began := time.Now()
	for {
		err := s.checkSchema(ctx)
		if !errors.Is(err, errNoSchema) {
			return err
		}
		if time.Since(began) > schemaPatience {
			return fmt.Errorf("%w: rooms without a number of that version, as those before 2 wrote them. %s", ErrSchema, s.advice())
		}
		select {
		case <-time.After(schemaPatience / 8):
		case <-ctx.Done():
			return unavailable(ctx.Err())
		}
	}
}

// checkScripts makes sure that Redis runs scripts.
func (s *Store) checkScripts(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	err := s.rdb.Eval(ctx, "return 1", []string{s.keys.schema()}).Err()
	if reply, ok := errors.AsType[redis.Error](err); ok {
		text := strings.ToLower(reply.Error())
		if strings.Contains(text, "unknown command") || strings.Contains(text, "noperm") && strings.Contains(text, "eval") {
			return fmt.Errorf("%w (%w)", ErrNoScripts, err)
		}
	}
	return unavailable(err)
}

// errNoSchema says that there are rooms without a schema.
var errNoSchema = errors.New("rooms without a schema")

// checkSchema compares the schema in Redis with ours.
func (s *Store) checkSchema(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	found, err := s.rdb.Get(ctx, s.keys.schema()).Result()
	if err != nil && !errors.Is(err, redis.Nil) && !wrongType(err) {
		return unavailable(err)
	}
	if found == "" { // a schema that can't be read counts as lost
		rooms, err := s.rdb.ZCard(ctx, s.keys.rooms()).Result()
		if rooms > 0 || wrongType(err) {
			return errNoSchema
		}
		if err != nil {
			return unavailable(err)
		}
		if found, err = s.putSchema(ctx); err != nil {
			return err
		}
	}
	if found != schema {
		return fmt.Errorf("%w: it is %.20q, and this server needs %s. %s", ErrSchema, found, schema, s.advice())
	}
	return nil
}

// putSchema stores our schema unless there is one already, and returns the one that is
// stored.
func (s *Store) putSchema(ctx context.Context) (found string, err error) {
	c := s.schemaCall()
	if s.run(ctx, c); c.err != nil {
		return "", unavailable(c.err)
	}
	found, _ = c.reply.(string)
	return found, nil
}

// schemaCall returns the call that stores our schema if there is none.
func (s *Store) schemaCall() *call {
	return &call{script: secretScript, keys: []string{s.keys.schema()}, args: []any{schema}}
}

// wrongType reports whether err says that a key has another type than expected.
func wrongType(err error) bool {
	return err != nil && strings.HasPrefix(err.Error(), "WRONGTYPE ")
}

// advice says what to do about data of another version.
func (s *Store) advice() string {
	return fmt.Sprintf("Give this server another -redis-prefix than %s, or stop all servers of the other version and delete %s:*; "+
		"see \"Upgrade\" in docs/operations.md", s.keys.prefix, s.keys.prefix)
}
