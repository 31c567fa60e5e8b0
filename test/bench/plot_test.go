package bench

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// plot shows how a figure grows, for each side that it was measured of.
type plot struct {
	file, title, figure string
	row                 string
}

func plots() []plot {
	return []plot{
		{"heartbeats.svg", "Redis time of a heartbeat", beatsRedis.name, "heartbeats"},
		{"joins.svg", "Redis time of a join, by how many join at a time", joinsRedis.name, "joins"},
		{"rooms.svg", "Redis time of a join, by how many rooms there are", roomsRedis.name, "rooms"},
		{"pages.svg", "Processor time of a replica for an update of a page", pageUpdate.name, "pages"},
		{"streams.svg", "Processor time of a replica for an event of a stream", streamEvent.name, "streams"},
		{"idle.svg", "Processor of a replica of idle rooms", idleReplica.name, "idle-rooms"},
	}
}

// Sizes of a plot, in its own units.
const (
	plotWidth, plotHeight                      = 720, 360
	plotLeft, plotRight, plotTop, plotBottom   = 64, 150, 56, 52
	plotInnerWidth, plotInnerHeight            = plotWidth - plotLeft - plotRight, plotHeight - plotTop - plotBottom
	plotX0, plotX1, plotY0, plotY1             = plotLeft, plotWidth - plotRight, plotHeight - plotBottom, plotTop
	plotRadius, plotLabelGap, plotTickDistance = 4, 12, 15
)

// plotStyle has colours for light and for dark pages.
const plotStyle = `<style>
svg { font: 13px system-ui, sans-serif; --back: #fff; --ink: #1f2328; --dim: #59636e; --line: #d1d9e0; --a: #0a5fd1; --b: #b35900; --c: #6e7781 }
@media (prefers-color-scheme: dark) { svg { --back: #0d1117; --ink: #f0f6fc; --dim: #9198a1; --line: #3d444d; --a: #6cb0ff; --b: #f0a050; --c: #9198a1 } }
.back { fill: var(--back) } text { fill: var(--ink) } .dim { fill: var(--dim) } .grid { stroke: var(--line) }
.a { stroke: var(--a); fill: var(--a) } .b { stroke: var(--b); fill: var(--b) } .c { stroke: var(--c); fill: var(--c) }
path { fill: none !important; stroke-width: 2 } .title { font-weight: 600; font-size: 15px } text.a, text.b, text.c { stroke: none }
</style>
`

// draw returns the plot of what a row has measured as SVG; nil where there is nothing to draw.
func (p plot) draw(r *result) []byte {
	var sides []string
	points := map[string][]*series{}
	var all []float64
	for _, s := range r.Series {
		if s.Figure != p.figure {
			continue
		}
		if points[s.Of] == nil {
			sides = append(sides, s.Of)
		}
		points[s.Of] = append(points[s.Of], s)
		low, _, high := spread(s.Values)
		all = append(all, low, high)
	}
	if len(all) == 0 {
		return nil
	}
	slices.SortStableFunc(sides, func(a, b string) int { return strings.Compare(class(a), class(b)) })
	first := points[sides[0]][0]
	x := newScale(slices.Collect(func(yield func(float64) bool) {
		for _, list := range points {
			for _, s := range list {
				if !yield(s.At) {
					return
				}
			}
		}
	}), true, plotX0+plotLabelGap, plotX1-plotLabelGap)
	least, most := slices.Min(all), slices.Max(all)
	y := newScale(all, least > 0 && most > 20*least, plotY0, plotY1)

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" aria-label="%s">`+"\n%s", plotWidth, plotHeight, p.title, plotStyle)
	fmt.Fprintf(&b, `<rect class="back" width="%d" height="%d"/>`+"\n", plotWidth, plotHeight)
	label := func(x, y float64, class, anchor, text string) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">`, x, y, class, anchor)
		_ = xml.EscapeText(&b, []byte(text)) // to memory
		b.WriteString("</text>\n")
	}
	label(plotLeft, 24, "title", "start", p.title)
	scale := ""
	if y.log {
		scale = ", logarithmic"
	}
	label(plotLeft, 43, "dim", "start", first.Unit+scale)
	for _, tick := range y.ticks() {
		fmt.Fprintf(&b, `<line class="grid" x1="%d" x2="%d" y1="%.1f" y2="%.1f"/>`+"\n", plotX0, plotX1, y.at(tick), y.at(tick))
		label(plotX0-8, y.at(tick)+4, "dim", "end", short(tick))
	}
	shown := map[float64]bool{}
	for _, list := range points {
		for _, s := range list {
			if !shown[s.At] {
				label(x.at(s.At), plotY0+20, "dim", "middle", number(s.At))
			}
			shown[s.At] = true
		}
	}
	label((plotX0+plotX1)/2, plotHeight-12, "dim", "middle", first.AtUnit)
	taken := []float64{}
	for _, of := range sides {
		list := points[of]
		slices.SortFunc(list, func(a, b *series) int { return int(a.At - b.At) })
		var path strings.Builder
		end := 0.0
		for i, s := range list {
			low, middle, high := spread(s.Values)
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], x.at(s.At), y.at(middle))
			fmt.Fprintf(&b, `<line class="%s" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, class(of), x.at(s.At), x.at(s.At), y.at(low), y.at(high))
			fmt.Fprintf(&b, `<circle class="%s" cx="%.1f" cy="%.1f" r="%d"/>`+"\n", class(of), x.at(s.At), y.at(middle), plotRadius)
			end = y.at(middle)
		}
		fmt.Fprintf(&b, `<path class="%s" d="%s"/>`+"\n", class(of), path.String())
		_, last, _ := spread(list[len(list)-1].Values)
		for slices.ContainsFunc(taken, func(other float64) bool { return math.Abs(other-end) < plotTickDistance }) {
			end += 2
		}
		taken = append(taken, end)
		label(plotX1+plotLabelGap, end+4, class(of), "start", of+" "+number(last))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// class is the colour of a side.
func class(of string) string {
	switch of {
	case ours, oneReplica:
		return "a"
	case raw:
		return "c"
	default:
		return "b"
	}
}

// scale maps values to places.
type scale struct {
	log        bool
	low, high  float64 // of values
	start, end float64 // of places
}

func newScale(values []float64, log bool, start, end float64) scale {
	s := scale{log: log, low: 0, high: slices.Max(values), start: start, end: end}
	if log {
		s.low = slices.Min(values)
	}
	if s.low == s.high {
		s.high++
	}
	return s
}

func (s scale) at(v float64) float64 {
	part := (v - s.low) / (s.high - s.low)
	if s.log {
		part = math.Log(v/s.low) / math.Log(s.high/s.low)
	}
	return s.start + part*(s.end-s.start)
}

// ticks are round values.
func (s scale) ticks() (list []float64) {
	if s.log {
		for size := math.Pow(10, math.Floor(math.Log10(s.low))); size <= s.high; size *= 10 {
			for _, tick := range []float64{1, 2, 5} {
				if v := tick * size; v >= s.low && v <= s.high {
					list = append(list, v)
				}
			}
		}
		return list
	}
	step := math.Pow(10, math.Floor(math.Log10(s.high)))
	for s.high/step < 4 {
		step /= 2
	}
	for v := 0.0; v <= s.high; v += step {
		list = append(list, v)
	}
	return list
}

// draw writes the plots into a folder, and returns those that there are.
func (r *report) draw(t *testing.T, dir string) (drawn []plot) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range plots() {
		i := slices.IndexFunc(r.Rows, func(row *result) bool { return row.Name == p.row })
		if i < 0 {
			continue
		}
		if text := p.draw(r.Rows[i]); text != nil {
			if err := os.WriteFile(filepath.Join(dir, p.file), text, 0o644); err != nil {
				t.Fatal(err)
			}
			drawn = append(drawn, p)
		}
	}
	return drawn
}
