package wire

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
		"the last is wrong":  {`{"action":"join","action":"Mount"}`, "", RejectAction},
		"a key misspelt":     {`{"action":"join","ACTION":"Mount","Data":{"x":1}}`, `{"action":"join","data":{}}`, ""},
		"only misspelt":      {`{"Action":"join"}`, "", RejectMalformed},
		"another case":       {`{"action":"Join"}`, "", RejectAction},
		"lifecycle":          {`{"action":"mount"}`, "", RejectAction},
		"navigate":           {`{"action":"__navigate__","data":{"room":"other"}}`, "", RejectAction},
		"peer action":        {`{"action":"presence-changed"}`, "", RejectAction},
		"upload":             {`{"action":"upload_start"}`, "", RejectAction},
		"empty action":       {`{"action":"","submitter":"join"}`, "", RejectAction},
		"no action":          {`{"submitter":"join"}`, "", RejectMalformed},
		"action null":        {`{"action":null}`, "", RejectMalformed},
		"action a number":    {`{"action":1}`, "", RejectMalformed},
		"data a string":      {`{"action":"join","data":"x"}`, "", RejectMalformed},
		"data an array":      {`{"action":"join","data":[]}`, "", RejectMalformed},
		"submitter a number": {`{"action":"join","submitter":1}`, "", RejectMalformed},
		"null":               {`null`, "", RejectMalformed},
		"array":              {`[{"action":"join"}]`, "", RejectMalformed},
		"two objects":        {`{"action":"join"}{"action":"join"}`, "", RejectMalformed},
		"cut":                {`{"action":"join"`, "", RejectMalformed},
		"empty":              {``, "", RejectMalformed},
		"deep":               {`{"action":"join","data":{"x":` + strings.Repeat("[", 20_000), "", RejectMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			in := NewFilter([]string{"join", "leave"}).Read([]byte(test.frame))
			if string(in.Frame) != test.want || in.Reject != test.reject || in.Ping {
				t.Errorf("Read(%.100s) = %q, reject %q, ping %v; want %q, reject %q",
					test.frame, in.Frame, in.Reject, in.Ping, test.want, test.reject)
			}
		})
	}
}

func TestFilterKnowsThePingInAnySpelling(t *testing.T) {
	for _, frame := range []string{`{"action":"__ping__"}`, ` { "data" : {}, "action" : "__pin\u0067__" } `} {
		if in := NewFilter(nil).Read([]byte(frame)); !in.Ping || in.Frame != nil || in.Reject != "" {
			t.Errorf("Read(%s) = %+v, want a ping", frame, in)
		}
	}
}

// FuzzFrame holds the filter to its promise: what is passed on is canonical, of
// an allowed action, and its data is the data that came.
func FuzzFrame(f *testing.F) {
	f.Add([]byte(`{"action":"join","data":{"username":"Ann"},"submitter":"join"}`))
	f.Add([]byte(`{"action":"join","action":"Mount","DATA":{},"data":{"a":1,"a":2}}`))
	f.Add([]byte(`{"action":"__ping__"}`))
	f.Add([]byte(`{"action":"leave","data":null,"x":[[[{}]]]}`))
	filter := NewFilter([]string{"join", "leave"})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if !utf8.Valid(frame) {
			return // closed before
		}
		in := filter.Read(frame)
		if kinds := btoi(in.Ping) + btoi(in.Frame != nil) + btoi(in.Reject != ""); kinds != 1 || (in.Frame == nil) != (in.Action == nil) {
			t.Fatalf("Read(%q) = %+v", frame, in)
		}
		if in.Frame == nil {
			return
		}
		type message struct {
			Action    string         `json:"action"`
			Data      map[string]any `json:"data"`
			Submitter *string        `json:"submitter"`
		}
		var out message
		decoder := json.NewDecoder(bytes.NewReader(in.Frame))
		decoder.UseNumber()
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&out); err != nil || decoder.More() {
			t.Fatalf("%q is not canonical: %v", in.Frame, err)
		}
		if filter[out.Action] != in.Action || out.Data == nil {
			t.Fatalf("Read(%q) passed on %q", frame, in.Frame)
		}
		if again := filter.Read(in.Frame); !bytes.Equal(again.Frame, in.Frame) {
			t.Fatalf("%q became %q", in.Frame, again.Frame)
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

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
