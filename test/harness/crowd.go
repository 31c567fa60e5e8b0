package harness

import (
	"sync"
	"testing"
)

// OpenMany opens n pages, some at a time. of returns the options and base URLs of each.
func OpenMany(t testing.TB, n int, of func(i int) (Options, []string)) []*Visitor {
	t.Helper()
	all := make([]*Visitor, n)
	InParallel(n, func(i int) {
		opts, bases := of(i)
		all[i] = newVisitor(t, opts, bases)
		if err := all[i].open(); err != nil {
			t.Errorf("open page %d: %v", i, err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// atATime is how many of a crowd act at once.
const atATime = 48

// InParallel calls do for 0 to n-1, a few at a time, and returns when all have
// returned.
func InParallel(n int, do func(i int)) {
	var group sync.WaitGroup
	next := make(chan int)
	for range min(n, atATime) {
		group.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	group.Wait()
}
