// Package browser tests the page as people use it: in Chromium, with the real
// livetemplate client, on two replicas that share one Redis.
//
//   - main_test.go: the one Chromium process that all tests share
//   - tab_test.go: a browser, its tabs, and what they show
//   - site_test.go: the replicas, and a balancer in front of them
//   - the others: what holds, one test each
package browser

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
	"go.uber.org/goleak"
)

var screenshots = flag.Bool("screenshots", false, "take the screenshots of docs/screenshots")

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(thenQuit{m})
}

// thenQuit ends Chromium before leaks are looked for.
type thenQuit struct{ m *testing.M }

func (q thenQuit) Run() int {
	defer func() { shared.quit() }()
	return q.m.Run()
}

// chromium is one Chromium process, started by the first test that needs it.
// Its browser contexts share neither cookies nor storage, and so are the
// browsers of different people at a fraction of the cost.
type chromium struct {
	once sync.Once
	ctx  context.Context //nolint:containedctx // chromedp keeps the browser in it
	err  error
	quit context.CancelFunc
}

var shared = &chromium{quit: func() {}}

// plainHost is a name of the loopback interface that Chromium does not count as
// secure, as it does 127.0.0.1: pages there have no Web Locks.
const plainHost = "presence.test"

// start returns the context of Chromium. Where it is not installed the test is
// skipped, except in CI, where it fails.
func (c *chromium) start(t testing.TB) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		path, err = exec.LookPath("chromium-browser")
	}
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatal("Chromium is not installed, and CI must not go without it")
	default:
		t.Skip("Chromium is not installed")
	}
	c.once.Do(func() {
		// The profile is a new folder, which chromedp makes and removes.
		options := append(chromedp.DefaultExecAllocatorOptions[:len(chromedp.DefaultExecAllocatorOptions):len(chromedp.DefaultExecAllocatorOptions)],
			chromedp.ExecPath(path),
			chromedp.NoSandbox,
			chromedp.DisableGPU,
			chromedp.WindowSize(1200, 900),
			chromedp.Flag("hide-scrollbars", true),
			chromedp.Flag("disable-quic", true),
			chromedp.Flag("disable-component-update", true),
			chromedp.Flag("force-prefers-reduced-motion", true), // spares the machine
			chromedp.Flag("host-resolver-rules", "MAP "+plainHost+" 127.0.0.1"),
		)
		ctx, quit := chromedp.NewExecAllocator(context.Background(), options...)
		c.ctx, _ = chromedp.NewContext(ctx)
		c.err = chromedp.Do(c.ctx)
		c.quit = func() {
			_ = chromedp.Cancel(c.ctx)
			quit()
		}
	})
	if c.err != nil {
		t.Fatalf("start Chromium: %v", c.err)
	}
	return c.ctx
}
