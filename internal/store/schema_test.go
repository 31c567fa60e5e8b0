package store

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"presence/internal/presence"
	"presence/internal/redistest"
)

func TestCheckMarksAnEmptyRedisAndRefusesOtherVersions(t *testing.T) {
	each(t, func(t *testing.T, e *env) {
		ctx := t.Context()
		s := e.store(t, Options{})
		for range 2 {
			if err := s.Check(ctx); err != nil {
				t.Fatalf("an empty Redis: %v", err)
			}
		}
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		if err := s.Check(ctx); err != nil {
			t.Fatalf("a Redis with rooms of ours: %v", err)
		}
		e.admin.Del(ctx, s.keys.room("r")...)
		e.admin.Del(ctx, s.keys.rooms())
		for name, damage := range map[string]func(){
			"empty":           func() { e.admin.Set(ctx, s.keys.schema(), "", 0) },
			"of a wrong type": func() { e.admin.Del(ctx, s.keys.schema()); e.admin.LPush(ctx, s.keys.schema(), "x") },
		} {
			damage()
			if err := s.Check(ctx); err != nil {
				t.Errorf("a schema that is %s: %v", name, err)
			}
			if found := e.admin.Get(ctx, s.keys.schema()).Val(); found != schema {
				t.Errorf("a schema that is %s is %q afterwards", name, found)
			}
		}
		e.admin.Set(ctx, s.keys.schema(), "3", 0)
		if err := s.Check(ctx); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "-redis-prefix") {
			t.Fatalf("schema 3: %v", err)
		}
	})
}

func TestRoomsWithoutASchemaAreRefusedUnlessAReplicaPutsItBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := redistest.NewFake(t)
		e := &env{unit: time.Second, client: fake.Client}
		s := e.store(t, Options{})
		join(t, s, "r", conn("c1", "gen1", "Ann"))
		if err := s.Check(t.Context()); !errors.Is(err, ErrSchema) {
			t.Fatalf("rooms without a schema: %v", err)
		}
		go func() {
			time.Sleep(2 * time.Second)
			if _, err := s.putSchema(t.Context()); err != nil {
				t.Error(err)
			}
		}()
		if err := s.Check(t.Context()); err != nil {
			t.Fatalf("put back meanwhile: %v", err)
		}
		fake.Down()
		if err := s.Check(t.Context()); !errors.Is(err, presence.ErrUnavailable) || errors.Is(err, ErrSchema) {
			t.Fatalf("without Redis: %v", err)
		}
	})
}

func TestRedisWithoutScriptsIsRefused(t *testing.T) {
	server := redistest.Start(t, "--rename-command", "EVAL", "", "--rename-command", "EVALSHA", "")
	s := New(server.Client(t), Options{})
	if err := s.Check(t.Context()); !errors.Is(err, ErrNoScripts) {
		t.Errorf("without EVAL: %v", err)
	}
	server = redistest.Start(t)
	must(server.Client(t).Do(t.Context(), "ACL", "SETUSER", "bare", "on", "nopass", "~*", "&*", "+@all", "-@scripting").Result())
	e, err := ParseURL("redis://bare:x@" + server.Addr)
	if err != nil {
		t.Fatal(err)
	}
	rdb := e.Open("test")
	defer func() { _ = rdb.Close() }()
	if err := New(rdb, Options{}).Check(t.Context()); !errors.Is(err, ErrNoScripts) {
		t.Errorf("without the right to: %v", err)
	}
	must(server.Client(t).Do(t.Context(), "ACL", "LOG", "RESET").Result()) // that was on purpose
}
