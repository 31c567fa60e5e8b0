package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// schema numbers the shape of what is kept in Redis. It changes when servers of two
// versions could not work on the same data.
//
//	1  names in the connections, no log; said so nowhere
//	2  names and metadata in users, changes in the log, an index of rooms
const schema = "2"

// schemaPatience is how long the data of rooms may be found without a schema: a running
// replica puts it back within that time when Redis has lost all.
const schemaPatience = 4 * time.Second

var (
	// ErrSchema is returned by [Store.Check] for data of servers of another version.
	ErrSchema = errors.New("Redis holds data of another version of this server")

	// ErrNoScripts is returned by [Store.Check] for a Redis that runs no Lua scripts.
	ErrNoScripts = errors.New("this Redis runs no Lua scripts, which are all that this server does: " +
		"allow EVAL and EVALSHA to its user, or use another Redis")
)

// Check finds out whether this server can work with what Redis is and holds. It marks an
// empty Redis as one of this version. An error that wraps [ErrSchema] or [ErrNoScripts] is
// for good; after [presence.ErrUnavailable] nothing is known yet.
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
	switch {
	case err == nil && found == schema:
		return nil
	case err == nil:
		return fmt.Errorf("%w: it is %s, and this server needs %s. %s", ErrSchema, found, schema, s.advice())
	case !errors.Is(err, redis.Nil):
		return unavailable(err)
	}
	rooms, err := s.rdb.ZCard(ctx, s.keys.rooms()).Result()
	if err != nil {
		return unavailable(err)
	}
	if rooms > 0 {
		return errNoSchema
	}
	return s.PutSchema(ctx)
}

// PutSchema marks Redis as one of this version, unless it is marked already.
func (s *Store) PutSchema(ctx context.Context) error {
	return unavailable(s.rdb.SetNX(ctx, s.keys.schema(), schema, 0).Err())
}

// advice is what to do about data of another version.
func (s *Store) advice() string {
	return fmt.Sprintf("Give this server another -redis-prefix than %s, or stop all servers of the other version and delete %s:*; "+
		"see \"Upgrade\" in docs/operations.md", s.keys.prefix, s.keys.prefix)
}
