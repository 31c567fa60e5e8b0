package socket

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestFilterPassesOnOnlyKnownFieldsOfAllowedActions(t *testing.T) {
	for name, test := range map[string]struct{ frame, want, reject string }{
		"as the client sends it": {
			`{"action":"join","data":{"username":"Ann"},"submitter":"join"}`,
			`{"action":"join","data":{"username":"Ann"},"submitter":"join"}`, "",
		},
		"without data": {`{"action":"leave"}`, `{"action":"leave","data":{}}`, ""},
		"with nulls":   {`{"action":"leave","data":null,"submitter":null}`, `{"action":"leave","data":{}}`, ""},
		"values as typed": {
			`{"data":{"a":9007199254740993,"b":1e400,"c":true,"d":null,"e":[1, 2],"f":"\u00e9"},"action":"join"}`,
			`{"action":"join","data":{"a":9007199254740993,"b":1e400,"c":true,"d":null,"e":[1, 2],"f":"\u00e9"}}`, "",
		},
		"escaped name":       {`{"action":"j\u006fin"}`, `{"action":"join","data":{}}`, ""},
		"upload fields":      {`{"action":"join","upload_name":"x","entries":[]}`, `{"action":"join","data":{}}`, ""},
		"the last of a key":  {`{"action":"Mount","action":"join"}`, `{"action":"join","data":{}}`, ""},
		"the last is wrong":  {`{"action":"join","action":"Mount"}`, "", rejectAction},
		"a key misspelt":     {`{"action":"join","ACTION":"Mount","Data":{"x":1}}`, `{"action":"join","data":{}}`, ""},
		"only misspelt":      {`{"Action":"join"}`, "", rejectMalformed},
		"another case":       {`{"action":"Join"}`, "", rejectAction},
		"lifecycle":          {`{"action":"mount"}`, "", rejectAction},
		"navigate":           {`{"action":"__navigate__","data":{"room":"other"}}`, "", rejectAction},
		"peer action":        {`{"action":"presence-changed"}`, "", rejectAction},
		"upload":             {`{"action":"upload_start"}`, "", rejectAction},
		"empty action":       {`{"action":"","submitter":"join"}`, "", rejectAction},
		"no action":          {`{"submitter":"join"}`, "", rejectMalformed},
		"action null":        {`{"action":null}`, "", rejectMalformed},
		"action a number":    {`{"action":1}`, "", rejectMalformed},
		"data a string":      {`{"action":"join","data":"x"}`, "", rejectMalformed},
		"data an array":      {`{"action":"join","data":[]}`, "", rejectMalformed},
		"submitter a number": {`{"action":"join","submitter":1}`, "", rejectMalformed},
		"null":               {`null`, "", rejectMalformed},
		"array":              {`[{"action":"join"}]`, "", rejectMalformed},
		"two objects":        {`{"action":"join"}{"action":"join"}`, "", rejectMalformed},
		"cut":                {`{"action":"join"`, "", rejectMalformed},
		"empty":              {``, "", rejectMalformed},
		"deep":               {`{"action":"join","data":{"x":` + strings.Repeat("[", 20_000), "", rejectMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			in := newFilter([]string{"join", "leave"}).read([]byte(test.frame))
			if string(in.frame) != test.want || in.reject != test.reject || in.ping {
				t.Errorf("read(%.100s) = %q, reject %q, ping %v; want %q, reject %q",
					test.frame, in.frame, in.reject, in.ping, test.want, test.reject)
			}
		})
	}
}

func TestFilterKnowsThePingInAnySpelling(t *testing.T) {
	for _, frame := range []string{`{"action":"__ping__"}`, ` { "data" : {}, "action" : "__pin\u0067__" } `} {
		if in := newFilter(nil).read([]byte(frame)); !in.ping || in.frame != nil || in.reject != "" {
			t.Errorf("read(%s) = %+v, want a ping", frame, in)
		}
	}
}

func TestCure(t *testing.T) {
	for name, test := range map[string]struct{ frame, want string }{
		"push":        {`{"tree":{"0":"2"},"meta":{"success":true,"errors":null}}`, `{"tree":{"0":"2"}}`},
		"empty push":  {`{"tree":{},"meta":{"success":true,"errors":null}}`, ``},
		"null push":   {`{"tree":null,"meta":{"success":true,"errors":null}}`, ``},
		"bare":        {`{"tree":{}}`, ``},
		"bare null":   {`{"tree":null}`, ``},
		"null tree":   {`{"tree":null,"meta":{"success":false,"errors":{"a":"b"}}}`, `{"tree":{},"meta":{"success":false,"errors":{"a":"b"}}}`},
		"reply":       {`{"tree":{},"meta":{"success":true,"errors":{},"action":"join"}}`, `{"tree":{},"meta":{"success":true,"errors":{},"action":"join"}}`},
		"first frame": {`{"tree":{"0":"2"},"meta":{"success":true,"errors":{},"capabilities":["x"]}}`, `{"tree":{"0":"2"},"meta":{"success":true,"errors":{},"capabilities":["x"]}}`},
		"in a string": {
			`{"tree":{"0":",\"meta\":{\"success\":true,\"errors\":null}}"}}`,
			`{"tree":{"0":",\"meta\":{\"success\":true,\"errors\":null}}"}}`,
		},
		"error": {`{"type":"error","code":"topic_forbidden"}`, `{"type":"error","code":"topic_forbidden"}`},
	} {
		t.Run(name, func(t *testing.T) {
			before := []byte(test.frame)
			got, ok := cure(before)
			if want := test.want != ""; ok != want || want && string(got) != test.want {
				t.Errorf("cure(%s) = %s, %v; want %s", test.frame, got, ok, test.want)
			}
			if string(before) != test.frame {
				t.Errorf("cure changed its argument to %s", before)
			}
		})
	}
}

// FuzzFrame holds the filter to its promise: what is passed on is canonical, of
// an allowed action, and its data is the data that came.
func FuzzFrame(f *testing.F) {
	f.Add([]byte(`{"action":"join","data":{"username":"Ann"},"submitter":"join"}`))
	f.Add([]byte(`{"action":"join","action":"Mount","DATA":{},"data":{"a":1,"a":2}}`))
	f.Add([]byte(`{"action":"__ping__"}`))
	f.Add([]byte(`{"action":"leave","data":null,"x":[[[{}]]]}`))
	filter := newFilter([]string{"join", "leave"})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if !utf8.Valid(frame) {
			return // closed before
		}
		in := filter.read(frame)
		if kinds := btoi(in.ping) + btoi(in.frame != nil) + btoi(in.reject != ""); kinds != 1 || (in.frame == nil) != (in.action == nil) {
			t.Fatalf("read(%q) = %+v", frame, in)
		}
		if in.frame == nil {
			return
		}
		type message struct {
			Action    string         `json:"action"`
			Data      map[string]any `json:"data"`
			Submitter *string        `json:"submitter"`
		}
		var out message
		decoder := json.NewDecoder(bytes.NewReader(in.frame))
		decoder.UseNumber()
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&out); err != nil || decoder.More() {
			t.Fatalf("%q is not canonical: %v", in.frame, err)
		}
		if filter[out.Action] != in.action || out.Data == nil {
			t.Fatalf("read(%q) passed on %q", frame, in.frame)
		}
		if again := filter.read(in.frame); !bytes.Equal(again.frame, in.frame) {
			t.Fatalf("%q became %q", in.frame, again.frame)
		}
		var fields map[string]any
		decoder = json.NewDecoder(bytes.NewReader(frame))
		decoder.UseNumber()
		if err := decoder.Decode(&fields); err != nil {
			t.Fatalf("%q was passed on: %v", frame, err)
		}
		if data, _ := fields["data"].(map[string]any); len(data)+len(out.Data) > 0 && !reflect.DeepEqual(data, out.Data) {
			t.Fatalf("data of %q became %v", frame, out.Data)
		}
	})
}

// FuzzCure holds that a frame stays valid, keeps its tree and all of its meta but
// a push's, and is left out only if it says nothing.
func FuzzCure(f *testing.F) {
	f.Add([]byte(`{"tree":{"0":"2"},"meta":{"success":true,"errors":null}}`))
	f.Add([]byte(`{"tree":null,"meta":{"success":false,"errors":{"_rate_limit":"x"}}}`))
	f.Add([]byte(`{"tree":{},"meta":{"success":true,"errors":null}}`))
	f.Add([]byte(`{"tree":{"0":",\"meta\":{\"success\":true,\"errors\":null}}"}}`))
	f.Fuzz(func(t *testing.T, frame []byte) {
		var before, after map[string]any
		if json.Unmarshal(frame, &before) != nil {
			return
		}
		out, ok := cure(frame)
		if !ok {
			tree, _ := before["tree"].(map[string]any)
			if len(tree) > 0 {
				t.Fatalf("%s was left out", frame)
			}
			return
		}
		if err := json.Unmarshal(out, &after); err != nil {
			t.Fatalf("cure(%s) = %s: %v", frame, out, err)
		}
		if bytes.HasPrefix(out, nullHead) {
			t.Fatalf("cure(%s) = %s", frame, out)
		}
		if bytes.HasPrefix(frame, nullHead) || bytes.HasSuffix(frame, pushTail) {
			return
		}
		if !reflect.DeepEqual(before, after) {
			t.Fatalf("cure(%s) = %s", frame, out)
		}
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
