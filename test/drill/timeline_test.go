package drill

import (
	"fmt"
	"strings"
	"time"

	"presence/test/harness"
)

const (
	// column is the time that one column stands for.
	column = 200 * time.Millisecond

	// rows is the height of the drawing in lines; each has eight steps.
	rows = 4
)

// timeline draws the count that a watcher saw: the lowest in each column. What it
// saw before the first column goes on until it saw something else.
func timeline(sights []harness.Sight, from, killed time.Time) string {
	n := int(before+after) / int(column)
	values := make([]int, n)
	low, high, now := 0, 0, 0
	for i := range values {
		begin, end := from.Add(time.Duration(i)*column), from.Add(time.Duration(i+1)*column)
		lowest := -1
		for _, s := range sights {
			switch {
			case !s.At.After(begin):
				now = s.Users
			case s.At.Before(end):
				if lowest < 0 {
					lowest = now
				}
				lowest = min(lowest, s.Users)
				now = s.Users
			}
		}
		if lowest < 0 {
			lowest = now
		}
		values[i] = lowest
		if i == 0 || lowest < low {
			low = lowest
		}
		high = max(high, lowest)
	}
	return draw(values, low, high, int(killed.Sub(from)/column))
}

// draw draws values between low and high, with a mark under one column.
func draw(values []int, low, high, mark int) string {
	const blocks = " ▁▂▃▄▅▆▇█"
	steps := []rune(blocks)
	var b strings.Builder
	b.WriteString("online, as seen at replica 1\n")
	span := max(1, high-low)
	for row := rows - 1; row >= 0; row-- {
		label := ""
		switch row {
		case rows - 1:
			label = fmt.Sprint(high)
		case 0:
			label = fmt.Sprint(low)
		}
		fmt.Fprintf(&b, "%5s |", label)
		for _, v := range values {
			// One step is left for the lowest, to be seen at all.
			height := 1 + (v-low)*(rows*8-1)/span - row*8
			b.WriteRune(steps[min(max(height, 0), 8)])
		}
		b.WriteString("\n")
	}
	// A mark at each second from the kill on.
	axis := []rune(strings.Repeat("-", len(values)))
	for i := mark; i >= 0 && i < len(axis); i += int(time.Second / column) {
		axis[i] = '+'
	}
	if mark >= 0 && mark < len(axis) {
		axis[mark] = '^'
	}
	fmt.Fprintf(&b, "      +%s\n       %s^ kill -9, then a + each second\n", string(axis), strings.Repeat(" ", max(0, mark)))
	return b.String()
}
