package redistest

import (
	"bufio"
	"bytes"
	"crypto/sha1" //nolint:gosec // what Redis calls scripts by
	"encoding/hex"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2/server"
	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"
)

// scripts runs the Lua scripts of a Fake. miniredis would make an interpreter for each
// call, which takes several times as long as the scripts themselves. Here one interpreter
// serves all calls. Scripts have only the globals of Redis, and no global outlives a call.
// Scripts can't be called within MULTI.
type scripts struct {
	fake   *Fake
	state  *lua.LState
	texts  map[string]string // by their hashes
	peer   *server.Peer      // a connection that speaks within a script
	inside any               // its context
	found  map[[2]string][]lua.LValue
	reply  bytes.Buffer
	reader *bufio.Reader
}

// compiled are the scripts of all Fakes, by their texts.
var compiled sync.Map

// newScripts returns an interpreter, to be closed after the Fake, which must have started.
func newScripts(t testing.TB, f *Fake) *scripts {
	s := &scripts{fake: f, texts: map[string]string{}, found: map[[2]string][]lua.LValue{}}
	s.reader = bufio.NewReader(&s.reply)
	s.peer = server.NewPeer(bufio.NewWriter(&s.reply))
	// Commands have to know that the lock is held. Only a script that miniredis itself runs
	// has the context that says so.
	err := f.Server().Register("REDISTEST.INSIDE", func(c *server.Peer, _ string, _ []string) {
		s.inside = c.Ctx
		c.WriteOK()
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Server().Dispatch(server.NewPeer(bufio.NewWriter(io.Discard)), []string{"EVAL", "return redis.call('REDISTEST.INSIDE')", "0"})
	s.peer.Ctx = s.inside

	s.state = lua.NewState(lua.Options{SkipOpenLibs: true, RegistrySize: 1024, RegistryMaxSize: 1 << 18, CallStackSize: 128})
	for name, open := range map[string]lua.LGFunction{
		lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable, lua.StringLibName: lua.OpenString, lua.MathLibName: lua.OpenMath,
	} {
		s.state.Push(s.state.NewFunction(open))
		s.state.Push(lua.LString(name))
		s.state.Call(1, 0)
	}
	text := s.state.GetGlobal(lua.StringLibName).(*lua.LTable)
	text.RawSetString("match", s.state.NewFunction(s.remembering(text.RawGetString("match").(*lua.LFunction).GFunction)))
	redis := s.state.NewTable()
	redis.RawSetString("call", s.state.NewFunction(func(*lua.LState) int { return s.call(true) }))
	redis.RawSetString("pcall", s.state.NewFunction(func(*lua.LState) int { return s.call(false) }))
	s.state.SetGlobal("redis", redis)
	s.set("KEYS", nil)
	s.set("ARGV", nil)
	strict := s.state.NewTable()
	refuse := s.state.NewFunction(func(l *lua.LState) int {
		l.RaiseError("Script attempted to access nonexistent global variable '%s'", l.CheckString(2))
		return 0
	})
	strict.RawSetString("__index", refuse)
	strict.RawSetString("__newindex", refuse)
	s.state.SetMetatable(s.state.G.Global, strict)
	return s
}

// serve runs a script, if a client asks for one that is known.
func (s *scripts) serve(c *server.Peer, cmd string, args []string) bool {
	if cmd != "EVAL" && cmd != "EVALSHA" || len(args) < 2 || c.Ctx == s.inside {
		return false
	}
	n, err := strconv.Atoi(args[1])
	if err != nil || n < 0 || n > len(args)-2 {
		return false
	}
	s.fake.Lock()
	defer s.fake.Unlock()
	text := args[0]
	if cmd == "EVALSHA" {
		if text = s.texts[args[0]]; text == "" {
			return false
		}
	}
	script, err := compile(text)
	if err != nil {
		return false // miniredis answers with the error
	}
	if cmd == "EVAL" {
		sum := sha1.Sum([]byte(text)) //nolint:gosec // likewise
		s.texts[hex.EncodeToString(sum[:])] = text
	}
	s.set("KEYS", args[2:2+n])
	s.set("ARGV", args[2+n:])
	s.state.Push(s.state.NewFunctionFromProto(script))
	if err := s.state.PCall(0, 1, nil); err != nil {
		c.WriteError(failure(err))
		return true
	}
	result := s.state.Get(-1)
	s.state.Pop(1)
	answer(c, result)
	return true
}

// compile returns a script that can be run.
func compile(text string) (*lua.FunctionProto, error) {
	if known, ok := compiled.Load(text); ok {
		return known.(*lua.FunctionProto), nil
	}
	chunk, err := parse.Parse(strings.NewReader(text), "script")
	if err != nil {
		return nil, err //nolint:wrapcheck // nobody sees it
	}
	script, err := lua.Compile(chunk, "script")
	if err == nil {
		script.IsVarArg &^= lua.VarArgNeedsArg // Redis has no such table, and each call would make one
		compiled.Store(text, script)
	}
	return script, err //nolint:wrapcheck // likewise
}

// set sets a global list.
func (s *scripts) set(name string, values []string) {
	list := s.state.CreateTable(len(values), 0)
	for _, value := range values {
		list.Append(lua.LString(value))
	}
	s.state.G.Global.RawSetString(name, list)
}

// maxFound is how many results of string.match are kept.
const maxFound = 1000

// remembering is string.match that keeps what it found. It would compile the pattern each time,
// and scripts mostly look at the same texts again.
func (s *scripts) remembering(match lua.LGFunction) lua.LGFunction {
	return func(l *lua.LState) int {
		if l.GetTop() != 2 {
			return match(l)
		}
		of := [2]string{l.CheckString(1), l.CheckString(2)}
		found, ok := s.found[of]
		if !ok {
			n := match(l)
			for i := range n {
				found = append(found, l.Get(i-n))
			}
			if len(s.found) >= maxFound {
				clear(s.found)
			}
			s.found[of] = found
			return n
		}
		for _, each := range found {
			l.Push(each)
		}
		return len(found)
	}
}

// call carries out a command of the script. An error ends the script, unless the script
// used pcall.
func (s *scripts) call(ends bool) int {
	l := s.state
	args := make([]string, l.GetTop())
	for i := range args {
		switch arg := l.Get(i + 1).(type) {
		case lua.LNumber:
			args[i] = arg.String()
		case lua.LString:
			args[i] = string(arg)
		default:
			l.RaiseError("Lua redis lib command arguments must be strings or integers")
		}
	}
	if s.fake.muted.Load() && len(args) > 0 && strings.HasSuffix(args[0], "PUBLISH") {
		l.Push(lua.LNumber(0))
		return 1
	}
	s.reply.Reset()
	s.reader.Reset(&s.reply)
	s.fake.Server().Dispatch(s.peer, args)
	s.peer.Flush()
	reply, err := server.ParseReply(s.reader)
	if err == nil {
		l.Push(s.value(reply))
		return 1
	}
	text := err.Error()
	if strings.HasPrefix(text, "ERR unknown command") {
		text = "ERR Unknown Redis command called from script"
	}
	if ends {
		l.RaiseError("%s", text)
	}
	failed := l.NewTable()
	failed.RawSetString("err", lua.LString(text))
	l.Push(failed)
	return 1
}

// value is a reply of Redis as scripts see it.
func (s *scripts) value(reply any) lua.LValue {
	switch reply := reply.(type) {
	case int:
		return lua.LNumber(reply)
	case string:
		return lua.LString(reply)
	case server.Simple:
		status := s.state.NewTable()
		status.RawSetString("ok", lua.LString(reply))
		return status
	case []any:
		list := s.state.CreateTable(len(reply), 0)
		for _, each := range reply {
			list.Append(s.value(each))
		}
		return list
	default:
		return lua.LFalse
	}
}

// failure is the answer to a client whose script ended with an error.
func failure(err error) string {
	if e, ok := err.(*lua.ApiError); ok { //nolint:errorlint // as it is
		if thrown, ok := e.Object.(*lua.LTable); ok {
			if text, ok := thrown.RawGetString("err").(lua.LString); ok {
				return string(text)
			}
		}
		err = &lua.ApiError{Type: e.Type, Object: e.Object, Cause: e.Cause}
	}
	return strings.ReplaceAll("ERR Error running script: "+err.Error(), "\n", " ")
}

// answer writes what a script returns to its client.
func answer(c *server.Peer, value lua.LValue) {
	switch value := value.(type) {
	case lua.LNumber:
		c.WriteInt(int(value))
	case lua.LString:
		c.WriteBulk(string(value))
	case *lua.LTable:
		if text, ok := value.RawGetString("err").(lua.LString); ok {
			c.WriteError(string(text))
			return
		}
		if text, ok := value.RawGetString("ok").(lua.LString); ok {
			c.WriteInline(string(text))
			return
		}
		n := 0
		for value.RawGetInt(n+1) != lua.LNil {
			n++
		}
		c.WriteLen(n)
		for i := range n {
			answer(c, value.RawGetInt(i+1))
		}
	default:
		if value == lua.LTrue {
			c.WriteInt(1)
		} else {
			c.WriteNull()
		}
	}
}
