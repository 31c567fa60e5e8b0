package wire

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// page is a page as livetemplate sends it first.
const page = `{"0":"lobby","1":{"0":{"d":[{"0":"id-of-ann","1":"Ann","2":""}],"m":{"idKey":"0"},"s":["<li data-key=\"","\">","","</li>"]},"s":["<ul>","</ul>"]},` +
	`"s":["<h1>","</h1>\n<div title=\"ééééééééééééééééééé\">","</div>"]}`

func slotsOf(t *testing.T, text string) Slots {
	t.Helper()
	var slots Slots
	if err := json.Unmarshal([]byte(text), &slots); err != nil {
		t.Fatal(err)
	}
	return slots
}

func TestSplicePutsSlotsIntoAFrame(t *testing.T) {
	slots := Slots{"1": json.RawMessage(`"new"`), "2": json.RawMessage(`{"0":"x"}`)}
	for frame, want := range map[string]string{
		`{"tree":{"0":"a","1":"b"},"meta":{"success":true}}`: `{"tree":{"0":"a","1":"new","2":{"0":"x"}},"meta":{"success":true}}`,
		`{"tree":{}}`:        `{"tree":{"1":"new","2":{"0":"x"}}}`,
		`{"type":"error"}`:   `{"type":"error"}`,
		`{"tree":null}`:      `{"tree":null}`,
		`what is no frame {`: `what is no frame {`,
	} {
		if got := string(Splice([]byte(frame), slots)); got != want {
			t.Errorf("Splice(%s) = %s, want %s", frame, got, want)
		}
	}
}

func TestMarkIsPutIntoOneRow(t *testing.T) {
	plain := slotsOf(t, page)
	marked := slotsOf(t, strings.Replace(page, `"2":""`, `"2":{"s":[" <b>you</b>"]}`, 1))
	mark, ok := NewMark(plain.Row(), marked.Row(), "id-of-ann")
	if !ok {
		t.Fatal("the row can't be marked")
	}
	const you = `{"s":[" <b>you</b>"]}`
	for _, c := range []struct{ frame, id, want string }{
		{`[{"0":"id-1","1":"A","2":""},{"0":"id-2","1":"B","2":""}]`, "id-2", `[{"0":"id-1","1":"A","2":""},{"0":"id-2","1":"B","2":` + you + `}]`},
		{`[{"0":"id-1","1":"A","2":""}]`, "id-2", `[{"0":"id-1","1":"A","2":""}]`},
		{`[{"0":"id-1","1":"A","2":""}]`, "", `[{"0":"id-1","1":"A","2":""}]`},
		// Names that try to be taken for something else.
		{
			`[{"0":"id-1","1":"\"0\":\"id-2\",\"2\":\"\"","2":""},{"0":"id-2","1":"\",\"2\":\"\"}","2":""}]`, "id-2",
			`[{"0":"id-1","1":"\"0\":\"id-2\",\"2\":\"\"","2":""},{"0":"id-2","1":"\",\"2\":\"\"}","2":` + you + `}]`,
		},
		// A change of a row that has no mark in it.
		{`{"10":["u","id-2",{"1":"Ann"}]}`, "id-2", `{"10":["u","id-2",{"1":"Ann"}]}`},
	} {
		if got := string(mark.Put([]byte(c.frame), c.id)); got != c.want {
			t.Errorf("Put(%s, %s) = %s, want %s", c.frame, c.id, got, c.want)
		}
	}
	for what, rows := range map[string][2]string{
		"no mark":            {`{"0":"id","1":""}`, `{"0":"id","1":""}`},
		"no id":              {`{"0":"x","1":""}`, `{"0":"x","1":"you"}`},
		"a mark that stands": {`{"0":"id","1":"other"}`, `{"0":"id","1":"you"}`},
		"before the id":      {`{"0":"","1":"id"}`, `{"0":"you","1":"id"}`},
		"no row":             {`null`, `null`},
	} {
		if _, ok := NewMark(slotsOf(t, rows[0]), slotsOf(t, rows[1]), "id"); ok {
			t.Errorf("%s: it can be marked", what)
		}
	}
}

func TestTextBeforeASlot(t *testing.T) {
	slots := slotsOf(t, page)
	if got := slots.Before("0"); got != "<h1>" {
		t.Errorf("before slot 0: %q", got)
	}
	if got := slots.Before("1"); len(got) > 40 || !utf8.ValidString(got) || !strings.HasSuffix(got, `é">`) {
		t.Errorf("before slot 1: %q", got)
	}
	for _, at := range []string{"s", "-1", "3", ""} {
		if got := slots.Before(at); got != "" {
			t.Errorf("before slot %q: %q", at, got)
		}
	}
}
