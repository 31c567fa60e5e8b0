package main

import (
	"slices"
	"strings"
	"testing"
)

func TestReportPrintsWhatMatters(t *testing.T) {
	events := strings.Join([]string{
		`{"Action":"start","Package":"a"}`,
		`{"Action":"run","Package":"a","Test":"TestGood"}`,
		`{"Action":"output","Package":"a","Test":"TestGood","Output":"    good_test.go:3: chatter\n"}`,
		`{"Action":"pass","Package":"a","Test":"TestGood"}`,
		`{"Action":"output","Package":"a","Test":"TestBad","Output":"=== RUN   TestBad\n"}`,
		`{"Action":"output","Package":"a","Test":"TestBad","Output":"    bad_test.go:7: broken: no\n"}`,
		`{"Action":"fail","Package":"a","Test":"TestBad"}`,
		`{"Action":"output","Package":"a","Test":"TestAway","Output":"    away_test.go:9: redis-server is not installed\n"}`,
		`{"Action":"output","Package":"a","Test":"TestAway","Output":"--- SKIP: TestAway (0.00s)\n"}`,
		`{"Action":"skip","Package":"a","Test":"TestAway"}`,
		`{"Action":"output","Package":"a","Test":"TestBroken","Output":"panic: no\n"}`,
		`{"Action":"output","Package":"a","Output":"FAIL\n"}`,
		`{"Action":"output","Package":"a","Output":"FAIL\ta\t0.1s\n"}`,
		`{"Action":"fail","Package":"a"}`,
		`{"Action":"skip","Package":"none"}`,
		`go: something else`,
		`{"Action":"output","Package":"b","Output":"-test.shuffle 1\n"}`,
		`{"Action":"output","Package":"b","Output":"PASS\n"}`,
		`{"Action":"output","Package":"b","Output":"ok  \tb\t0.2s\n"}`,
		`{"Action":"pass","Package":"b"}`,
	}, "\n") + "\n"
	var out strings.Builder
	skipped, err := report(strings.NewReader(events), &out)
	if err != nil {
		t.Fatal(err)
	}
	want := "=== RUN   TestBad\n    bad_test.go:7: broken: no\npanic: no\nFAIL\nFAIL\ta\t0.1s\ngo: something else\nok  \tb\t0.2s\n" +
		"skipped   1: redis-server is not installed\n"
	if got := out.String(); got != want {
		t.Errorf("printed\n%s\nwant\n%s", got, want)
	}
	if want := []string{"skipped   1: redis-server is not installed\n"}; !slices.Equal(skipped, want) {
		t.Errorf("skipped = %q, want %q", skipped, want)
	}
}
