package terse

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestLineComesOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var line Line
		var said []int
		for range 180 { // one each second
			if left, due := line.Due(); due {
				said = append(said, left)
			}
			time.Sleep(time.Second)
		}
		if want := []int{0, 59, 59}; !slices.Equal(said, want) {
			t.Errorf("lines that tell of %v left out, want %v", said, want)
		}
	})
}

func TestLineOfItsOwnInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := Line{Every: time.Second}
		n := 0
		for range 50 {
			if _, due := line.Due(); due {
				n++
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n != 5 {
			t.Errorf("%d lines in 5 s, want 5", n)
		}
	})
}

func TestStateThatLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var state State
		if _, due := state.Works(); due {
			t.Error("what always worked is said to work again")
		}
		var said []int
		for range 150 {
			if left, due := state.Fails(); due {
				said = append(said, left)
			}
			time.Sleep(time.Second)
		}
		if want := []int{0, 59, 59}; !slices.Equal(said, want) {
			t.Errorf("failures that tell of %v left out, want %v", said, want)
		}
		if lasted, due := state.Works(); !due || lasted != 150*time.Second {
			t.Errorf("Works() = %v, %v; want 150 s, and that it is said", lasted, due)
		}
		if _, due := state.Works(); due {
			t.Error("said twice that it works")
		}
	})
}

func TestStateThatComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var state State
		fails, works := 0, 0
		for range 180 {
			if _, due := state.Fails(); due {
				fails++
			}
			time.Sleep(time.Second)
			if _, due := state.Works(); due {
				works++
			}
		}
		if fails != 3 || works != 3 {
			t.Errorf("said %d times that it fails and %d times that it works in three minutes, want 3 and 3", fails, works)
		}
		// Within the same minute: what stays away is said nevertheless.
		for range 10 {
			if _, due := state.Fails(); due {
				fails++
			}
			time.Sleep(time.Second)
		}
		if fails != 4 {
			t.Error("the log ends with that it works, while it does not")
		}
	})
}
