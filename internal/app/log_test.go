package app

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

// linesOf lists the lines of a stopped server's log that contain part.
func (r *running) linesOf(t *testing.T, part string) []string {
	t.Helper()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(r.log.String()) {
		if strings.Contains(line, part) {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestRefusedOriginsAreALineASecond(t *testing.T) {
	for name, try := range map[string]func(a *running, b *browser){
		"form": func(a *running, b *browser) {
			b.do(http.MethodPost, a.url("/"), join("Ann").Encode(), "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
		},
		"socket": func(a *running, b *browser) {
			header := http.Header{"Origin": {"https://evil.example"}}
			_, resp, err := websocket.DefaultDialer.DialContext(b.t.Context(), "ws://"+a.Addr()+"/", header)
			if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
				b.t.Errorf("socket of another site: %v, %v", resp, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, nil).ready(t)
			b := newBrowser(t)
			const times = 20 // in far less than 19 s
			for range times {
				try(a, b)
			}
			lines := a.linesOf(t, "origin refused")
			if len(lines) == 0 || len(lines) == times {
				t.Fatalf("%d lines for %d requests, want one a second", len(lines), times)
			}
			for _, part := range []string{"origin=https://evil.example", "host=" + a.Addr(), "address=127.0.0.1"} {
				if !strings.Contains(lines[0], part) {
					t.Errorf("%q lacks %q", lines[0], part)
				}
			}
		})
	}
}

func TestHeadersOfAProxyThatIsNotTrustedAreALine(t *testing.T) {
	header := []string{"X-Forwarded-For", "198.51.100.7", "X-Forwarded-Proto", "https"}
	for trusted, want := range map[string]int{"": 1, "10.0.0.0/8": 1, "127.0.0.0/8": 0} {
		a := start(t, func(c *Config) { c.TrustedProxies = trusted }).ready(t)
		b := newBrowser(t)
		for range 5 {
			b.do(http.MethodGet, a.url("/"), "", header...)
			b.do(http.MethodGet, a.url("/livez"), "")
		}
		lines := a.linesOf(t, "trusted-proxies")
		if len(lines) != want {
			t.Errorf("-trusted-proxies %q: %d lines for five requests, want %d: %v", trusted, len(lines), want, lines)
		}
		if named := regexp.MustCompile(`level=WARN .*header=X-Forwarded-For address=127\.0\.0\.1`); want > 0 && !named.MatchString(lines[0]) {
			t.Errorf("%q does not name header and address", lines[0])
		}
	}
}

func TestKeysFileWithoutKeysIsALine(t *testing.T) {
	for text, want := range map[string]int{"": 2, "# none yet\n": 2, keyLine: 0} {
		file := t.TempDir() + "/keys"
		if err := writeFile(file, text); err != nil {
			t.Fatal(err)
		}
		a := start(t, func(c *Config) { c.APIKeysFile = file })
		a.Reload(t.Context())
		lines := a.linesOf(t, "no key in this file")
		if len(lines) != want {
			t.Errorf("%q: %d lines after the start and a reload, want %d: %q", text, len(lines), want, lines)
		}
		for _, line := range lines {
			if !strings.Contains(line, "level=WARN") || !strings.Contains(line, "setting=-api-keys-file file="+file) {
				t.Errorf("the line is %q", line)
			}
		}
	}
}
