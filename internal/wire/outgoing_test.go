package wire

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
)

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
			got, ok := Cure(before)
			if want := test.want != ""; ok != want || want && string(got) != test.want {
				t.Errorf("Cure(%s) = %s, %v; want %s", test.frame, got, ok, test.want)
			}
			if string(before) != test.frame {
				t.Errorf("Cure changed its argument to %s", before)
			}
		})
	}
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
		out, ok := Cure(frame)
		if !ok {
			tree, _ := before["tree"].(map[string]any)
			if len(tree) > 0 {
				t.Fatalf("%s was left out", frame)
			}
			return
		}
		if err := json.Unmarshal(out, &after); err != nil {
			t.Fatalf("Cure(%s) = %s: %v", frame, out, err)
		}
		if bytes.HasPrefix(out, nullHead) {
			t.Fatalf("Cure(%s) = %s", frame, out)
		}
		if bytes.HasPrefix(frame, nullHead) || bytes.HasSuffix(frame, pushTail) {
			return
		}
		if !reflect.DeepEqual(before, after) {
			t.Fatalf("Cure(%s) = %s", frame, out)
		}
	})
}
