// Package outside makes parts of servers that can't be made in a testing/synctest bubble:
// the page template, whose goroutines never end, and parts that take long to make.
package outside

import (
	"log/slog"
	"sync"

	"github.com/livetemplate/livetemplate"

	"presence/internal/controller"
	"presence/internal/live"
	"presence/internal/store"
	"presence/templates"
	"presence/web"
)

// calls are the functions for a goroutine that belongs to no bubble.
var calls = make(chan func())

// Begin silences the log lines of the libraries and makes Assets and Pages. TestMain calls
// it first. It starts a goroutine that lives as long as the process.
func Begin() {
	slog.SetDefault(slog.New(slog.DiscardHandler)) // livetemplate's lines
	store.LogTo(slog.Default())
	go func() {
		for do := range calls {
			do()
		}
	}()
	Pages()
}

// NewPage is [livetemplate.New], called outside of the bubble: it starts a goroutine that
// never ends.
func NewPage(name string, options ...livetemplate.Option) (t *livetemplate.Template, err error) {
	var done sync.Mutex // a channel would belong to the bubble
	done.Lock()
	calls <- func() {
		defer done.Unlock()
		t, err = livetemplate.New(name, options...)
	}
	done.Lock()
	return t, err
}

// Assets are the browser assets. Assets and Pages are made once, since that takes a while.
var Assets = sync.OnceValue(func() *web.Assets {
	a, err := web.Load()
	if err != nil {
		panic(err)
	}
	return a
})

// Pages is the rendering of the page of a room.
var Pages = sync.OnceValue(func() *live.Pages {
	t, err := NewPage("presence", templates.Options(Assets())...)
	if err != nil {
		panic(err)
	}
	p, err := live.New(t, controller.LiveOptions(slog.Default()))
	if err != nil {
		panic(err)
	}
	return p
})
