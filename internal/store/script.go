package store

import (
	"context"
	_ "embed"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed script/room.lua
	roomLua string
	//go:embed script/users.lua
	usersLua string
	//go:embed script/newcomers.lua
	newcomersLua string
	//go:embed script/join.lua
	joinLua string
	//go:embed script/resume.lua
	resumeLua string
	//go:embed script/release.lua
	releaseLua string
	//go:embed script/leave.lua
	leaveLua string
	//go:embed script/heartbeat.lua
	heartbeatLua string
	//go:embed script/extend.lua
	extendLua string
	//go:embed script/sweep.lua
	sweepLua string
	//go:embed script/update.lua
	updateLua string
	//go:embed script/read.lua
	readLua string
	//go:embed script/find.lua
	findLua string
	//go:embed script/clear.lua
	clearLua string
	//go:embed script/register.lua
	registerLua string
	//go:embed script/pick.lua
	pickLua string
	//go:embed script/scan.lua
	scanLua string
	//go:embed script/changes.lua
	changesLua string
	//go:embed script/remove.lua
	removeLua string
	//go:embed script/announce.lua
	announceLua string
	//go:embed script/note.lua
	noteLua string
	//go:embed script/list.lua
	listLua string
	//go:embed script/forget.lua
	forgetLua string
	//go:embed script/epoch.lua
	epochLua string
	//go:embed script/secret.lua
	secretLua string
)

// script is a Lua script, with its name in logs and metrics.
type script struct {
	name string
	lua  *redis.Script
}

// The scripts of a room begin with the code that they share. They take [keys.room] and
// [Store.args]. A join of nobody but newcomers ends before the code that it does not need.
var (
	joinScript      = script{"join", redis.NewScript(roomLua + newcomersLua + usersLua + joinLua)}
	resumeScript    = script{"resume", redis.NewScript(roomLua + resumeLua)}
	releaseScript   = script{"release", redis.NewScript(roomLua + releaseLua)}
	leaveScript     = script{"leave", redis.NewScript(roomLua + usersLua + leaveLua)}
	heartbeatScript = script{"heartbeat", redis.NewScript(roomLua + heartbeatLua)}
	extendScript    = script{"extend", redis.NewScript(roomLua + extendLua)}
	sweepScript     = script{"sweep", redis.NewScript(roomLua + usersLua + sweepLua)}
	updateScript    = script{"update", redis.NewScript(roomLua + usersLua + updateLua)}
	readScript      = script{"read", redis.NewScript(roomLua + readLua)}
	findScript      = script{"find", redis.NewScript(roomLua + usersLua + findLua)}
	clearScript     = script{"clear", redis.NewScript(roomLua + clearLua)}
	pickScript      = script{"pick", redis.NewScript(roomLua + pickLua)}
	scanScript      = script{"scan", redis.NewScript(roomLua + scanLua)}
	changesScript   = script{"changes", redis.NewScript(roomLua + changesLua)}
	removeScript    = script{"remove", redis.NewScript(roomLua + usersLua + removeLua)}
	registerScript  = script{"register", redis.NewScript(registerLua)}
	announceScript  = script{"announce", redis.NewScript(announceLua)}
	noteScript      = script{"note", redis.NewScript(noteLua)}
	listScript      = script{"list", redis.NewScript(listLua)}
	forgetScript    = script{"forget", redis.NewScript(forgetLua)}
	epochScript     = script{"epoch", redis.NewScript(epochLua)}
	secretScript    = script{"secret", redis.NewScript(secretLua)}
)

// scripts lists all scripts.
func scripts() []script {
	return []script{
		joinScript, leaveScript, sweepScript, resumeScript, releaseScript,
		heartbeatScript, extendScript, updateScript, readScript, findScript, pickScript, scanScript,
		changesScript, removeScript, clearScript, announceScript, noteScript, listScript,
		registerScript, forgetScript, epochScript, secretScript,
	}
}

// call is one call of a script, with its keys and arguments, and then its reply.
type call struct {
	script script
	keys   []string
	args   []any

	reply any
	err   error
}

// run makes all calls, in one round trip for each node of Redis. Each call gets its own
// reply or error. If a node does not know a script, because it was restarted, run sends
// the script. It makes no calls to nodes that are to be avoided.
func (s *Store) run(ctx context.Context, calls ...*call) {
	if calls = s.reachable(calls); len(calls) > 0 {
		s.make(ctx, calls)
	}
}

// make makes calls like run, but also to nodes that are to be avoided.
func (s *Store) make(ctx context.Context, calls []*call) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.CallTimeout)
	defer cancel()
	started := time.Now()
	s.pipeline(ctx, calls, func(p redis.Pipeliner, c *call) *redis.Cmd {
		return c.script.lua.EvalSha(ctx, p, c.keys, c.args...)
	})
	var unknown []*call
	for _, c := range calls {
		if c.err != nil && strings.HasPrefix(c.err.Error(), "NOSCRIPT") {
			unknown = append(unknown, c)
		}
	}
	if len(unknown) > 0 {
		s.pipeline(ctx, unknown, func(p redis.Pipeliner, c *call) *redis.Cmd {
			return c.script.lua.Eval(ctx, p, c.keys, c.args...)
		})
	}
	for _, c := range calls {
		if c.err != nil {
			c.err = classify(c.err)
		}
		s.metrics.called(c.script.name, c.err, started)
	}
}

// pipeline sends calls together and stores the replies.
func (s *Store) pipeline(ctx context.Context, calls []*call, add func(redis.Pipeliner, *call) *redis.Cmd) {
	pipe := s.rdb.Pipeline()
	cmds := make([]*redis.Cmd, len(calls))
	for i, c := range calls {
		cmds[i] = add(pipe, c)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	for i, c := range calls {
		c.reply, c.err = cmds[i].Result()
	}
}
