package access

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

func TestKeysFile(t *testing.T) {
	hash := sha256.Sum256([]byte(testKey))
	text := "# backends\r\n\r\n  \t\n" +
		"billing\tsha256:" + strings.ToUpper(hex.EncodeToString(hash[:])) + "  rooms=lobby,team-*,* rights=read # since May\r\n" +
		"  #billing sha256:00\n" +
		strings.TrimSuffix(line("billing", "psk_2", "a", "write,read"), "\n") // a name may come twice, and the last line end
	keys, err := ParseKeys(text)
	if err != nil || len(keys) != 2 || keys[0].Name != "billing" || keys[0].hash != hash {
		t.Fatalf("%+v, %v", keys, err)
	}
	if none, err := ParseKeys("# none yet\n"); err != nil || len(none) != 0 {
		t.Errorf("no keys: %+v, %v", none, err)
	}
}

func TestBadLineOfTheKeysFileIsNamedWithoutItsKey(t *testing.T) {
	good := line("good", testKey, "*", "read")
	fields := strings.Fields(good)
	with := func(i int, field string) string {
		changed := append([]string(nil), fields...)
		changed[i] = field
		return strings.Join(changed, " ") + "\n"
	}
	const hash = "1"
	for name, test := range map[string]struct{ line, want string }{
		"one field":         {"good", "a line is NAME sha256:HEX"},
		"no rights":         {strings.Join(fields[:3], " "), "a line is NAME sha256:HEX"},
		"five fields":       {strings.TrimSpace(good) + " more", "a line is NAME sha256:HEX"},
		"blank in a list":   {strings.Replace(good, "rights=read", "rights=read, write", 1), "a line is NAME sha256:HEX"},
		"name":              {with(0, "a/b"), "the NAME of a key"},
		"name is long":      {with(0, strings.Repeat("x", 129)), "the NAME of a key"},
		"key for a name":    {with(0, testKey), "the NAME of a key"},
		"key for a hash":    {with(1, testKey), "sha256: and the SHA-256"},
		"key behind sha256": {with(1, "sha256:"+testKey), "sha256: and the SHA-256"},
		"short hash":        {with(1, "sha256:"+strings.Repeat(hash, 62)), "64 hexadecimal digits"},
		"long hash":         {with(1, "sha256:"+strings.Repeat(hash, 66)), "64 hexadecimal digits"},
		"odd hash":          {with(1, "sha256:"+strings.Repeat(hash, 63)), "64 hexadecimal digits"},
		"no hash":           {with(1, strings.Repeat(hash, 64)), "64 hexadecimal digits"},
		"another hash":      {with(1, "sha512:"+strings.Repeat(hash, 64)), "sha256:"},
		"rooms":             {with(2, "room=lobby"), "must be rooms="},
		"no rooms":          {with(2, "rooms="), "rooms=: a pattern is"},
		"empty pattern":     {with(2, "rooms=lobby,"), "rooms=: a pattern is"},
		"star inside":       {with(2, "rooms=a*b"), "rooms=: a pattern is"},
		"no room":           {with(2, "rooms=a.b"), "rooms=: a pattern is"},
		"rights":            {with(3, "right=read"), "must be rights="},
		"no right":          {with(3, "rights="), "read, write or both"},
		"another right":     {with(3, "rights=read,admin"), "read, write or both"},
		"order":             {strings.Join([]string{fields[0], fields[1], fields[3], fields[2]}, " "), "must be rooms="},
	} {
		_, err := ParseKeys("# keys\n\n" + line("other", "psk_2", "*", "read") + test.line)
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if !strings.HasPrefix(err.Error(), "line 4: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %q does not begin with the line, or lacks %q", name, err, test.want)
		}
		if strings.Contains(err.Error(), testKey[4:]) || strings.Contains(err.Error(), hash+hash+hash) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the error tells what the line holds: %q", name, err)
		}
	}
	if _, err := ParseKeys(good + "\n" + line("again", testKey, "lobby", "write")); err == nil || !strings.Contains(err.Error(), "line 3: this key stands in line 1") {
		t.Errorf("a key that stands there twice: %v", err)
	}
}

// FuzzParseKeys holds: what is accepted is a key with rooms and rights, and an error
// names a line that is there.
func FuzzParseKeys(f *testing.F) {
	f.Add(line("good", testKey, "*", "read"))
	f.Add("# x\n\ngood sha256: rooms= rights=\n")
	f.Add("a b c d\r\n\x00")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := ParseKeys(text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "line ") || len(keys) > 0 || len(err.Error()) > 200 {
				t.Errorf("%d keys, %v", len(keys), err)
			}
			return
		}
		for _, key := range keys {
			if key.Name == "" || len(key.rules) == 0 {
				t.Errorf("a key without name or rooms: %+v", key)
			}
			for _, rule := range key.rules {
				if rule.rights == 0 || rule.rights&^(Observe|Join|Remove) != 0 {
					t.Errorf("a key with the rights %v", rule.rights)
				}
			}
		}
	})
}
