package templates

import (
	"bytes"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// document is a parsed page that tests ask by selectors of the simplest forms:
// element, [attribute], [attribute=value], and element with one of those.
type document struct{ root *html.Node }

func parse(t *testing.T, page []byte) document {
	t.Helper()
	// Without scripting, as the visitors whom noscript is for.
	root, err := html.ParseWithOptions(bytes.NewReader(page), html.ParseOptionEnableScripting(false))
	if err != nil {
		t.Fatal(err)
	}
	return document{root}
}

// all returns the elements that match, in document order.
func (d document) all(selector string) []*html.Node {
	element, attribute, _ := strings.Cut(strings.TrimSuffix(selector, "]"), "[")
	key, value, valued := strings.Cut(attribute, "=")
	var found []*html.Node
	for n := range d.root.Descendants() {
		if n.Type != html.ElementNode || element != "" && n.Data != element {
			continue
		}
		if key == "" || hasAttr(n, key) && (!valued || attrOf(n, key) == value) {
			found = append(found, n)
		}
	}
	return found
}

func (d document) one(t *testing.T, selector string) *html.Node {
	t.Helper()
	found := d.all(selector)
	if len(found) == 0 {
		t.Fatalf("nothing matches %s", selector)
	}
	return found[0]
}

func (d document) text(t *testing.T, selector string) string {
	t.Helper()
	return textOf(d.one(t, selector))
}

func (d document) first(t *testing.T, selector, attribute string) string {
	t.Helper()
	return attrOf(d.one(t, selector), attribute)
}

// has demands the text of the first match.
func (d document) has(t *testing.T, selector, want string) {
	t.Helper()
	if got := d.text(t, selector); got != want {
		t.Errorf("%s says %q, want %q", selector, got, want)
	}
}

// contains demands a part of the markup of the first match.
func (d document) contains(t *testing.T, selector, want string) {
	t.Helper()
	var markup bytes.Buffer
	if err := html.Render(&markup, d.one(t, selector)); err != nil {
		t.Fatal(err)
	}
	if got := strings.ReplaceAll(markup.String(), "/>", ">"); !strings.Contains(got, want) {
		t.Errorf("%s lacks %q:\n%s", selector, want, got)
	}
}

// attr demands an attribute of the first match.
func (d document) attr(t *testing.T, selector, attribute, want string) {
	t.Helper()
	n := d.one(t, selector)
	if got := attrOf(n, attribute); got != want || !hasAttr(n, attribute) {
		t.Errorf("%s has %s=%q, want %q", selector, attribute, got, want)
	}
}

func (d document) count(t *testing.T, selector string, want int) {
	t.Helper()
	if got := len(d.all(selector)); got != want {
		t.Errorf("%d elements match %s, want %d", got, selector, want)
	}
}

func hasAttr(n *html.Node, key string) bool {
	for _, a := range n.Attr {
		if a.Key == key {
			return true
		}
	}
	return false
}

func attrOf(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// textOf is the text of n, without the space around it.
func textOf(n *html.Node) string {
	var text strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			text.WriteString(d.Data)
		}
	}
	return strings.TrimSpace(text.String())
}
