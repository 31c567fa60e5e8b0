package presence

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
	"golang.org/x/text/unicode/norm"
)

func TestCleanName(t *testing.T) {
	for raw, want := range map[string]string{
		"  Alice \t":            "Alice",
		"Alice  \u00a0 B":       "Alice B",
		"Ame\u0301lie":          "Amélie",
		"\u1112\u1161\u11ab":    "한",
		"\u2000Ann\u3000\u3000": "Ann",
	} {
		if got, err := CleanName(raw); err != nil || got != want {
			t.Errorf("CleanName(%q) = %q, %v; want %q", raw, got, err, want)
		}
	}
}

// Names that are accepted as they are.
func goodNames() []string {
	return []string{
		"Alice", "42", "007", "1e3", "Infinity", "null", "true", "O'Neil", "a-b", "x", "^_^", "…",
		"<b>&\"'", "{x}", "a {{x}}", strings.Repeat("ö", 40), strings.Repeat("😀", 40),
		"Zoë", "Amélie", "Nguyễn Thị Ngọc", "Đặng Hữu Phước", "Ἀλέξανδρος", "Ωμέγα ᾧ", "Ольга", "Ґалаґан",
		"李小龍", "さくら", "サクラ", "か゚", "한글", "ㅋㅋㅋ", "กิตติศักดิ์", "น้ำฝน", "ពៅ ស្រីល័ក្ខ", "မြှောင့်", "လျှော်", "ལྷ་མོ", "བསྒྲུབས",
		"तनुश्री", "क्षितिज", "தமிழ்ச்செல்வி", "లక్ష్మి", "ಕನ್ನಡ", "ਗੁਰਪ੍ਰੀਤ", "ગુજરાતી", "ଓଡ଼ିଆ", "বাংলা", "മലയാളം",
		"محمد", "مُحَمَّد", "دَاوُۥد", "שָׁלוֹם", "יִשְׂרָאֵל", "בְּרֵאשִׁ֖ית", "ܡܰܪܝܰܡ", "Հայկ", "ქეთევან", "አበበ", "ᏣᎳᎩ", "ⵜⴰⵎⴰⵣⵉⵖⵜ", "ᠮᠣᠩᠭᠣᠯ",
		// Joiners where the script needs them.
		"علی\u200cرضا", "می\u200cخواهم", "ශ\u0dca\u200dරී ලංකා", "ක\u0dca\u200dෂ", "क्\u200dष", "क्\u200cष", "നന\u0d4d\u200d", "রাজ\u09cd\u200cয", "র\u200d\u09cdয\u09beব",
		// Emoji and their sequences.
		"🦊 fox", "❤", "❤\ufe0f", "☺\ufe0e", "👍🏽", "👨\u200d👩\u200d👧\u200d👦", "👨🏻\u200d👩🏼\u200d👧🏽\u200d👦🏿", "👩\u200d❤\ufe0f\u200d💋\u200d👨", "🏳\ufe0f\u200d🌈", "🏴\u200d☠\ufe0f",
		"🤷🏽\u200d♀\ufe0f", "👁\ufe0f\u200d🗨\ufe0f", "🇩🇪", "🇩🇪🇫🇷", "1\ufe0f\u20e3", "#\ufe0f\u20e3", "*\u20e3",
		"🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
		// Variants of ideographs, as in Japanese names, and of Mongolian letters.
		"葛\U000e0100城", "辻\U000e0101", "ᠠ\u180b",
	}
}

func TestNamesOfTheWorldAreAccepted(t *testing.T) {
	for _, name := range goodNames() {
		if got, err := CleanName(name); err != nil || got != norm.NFC.String(name) {
			t.Errorf("CleanName(%q) = %q, %v", name, got, err)
		}
	}
}

func TestNamesThatCannotBeReadAreRefused(t *testing.T) {
	for reason, names := range map[string][]string{
		noName:  {"", " \u3000 ", "\t\n", "\u00a0", "\u2003\u2003"},
		notText: {"a\xffb", "\xed\xa0\x80", "\ufffd", "a\ufffdb"},
		invisible: {
			"a\x00b", "a\nb", "a\tb", "a\x7fb", "a\u0085b", "a\u2028b", "a\u2029b",
			"a\u202eb", "a\u2066b", "\u200eAnn", "Ann\u200f", "a\u061cb",
			"a\u200bb", "\ufeffa", "a\u00adb", "a\u2060b", "a\u2062b", "a\u180eb", "\u0600", "a\ufff9b",
			"a\ue000b", "a\U000f0000b", "a\u0378b", "a\uffffb", "\U0003fffd",
			// Joiners elsewhere than where they are needed.
			"\u200c", "\u200d", "a\u200db", "a\u200cb", "Ann\u200d", "\u200dAnn", "علی\u200c", "\u200cعلی", "کار\u200cها", "علی\u200c رضا", "علی\u200c\u200cرضا",
			"क\u200dष", "क्\u200d\u200dष", "क्\u200d\u093e", "क्\u200c", "👍\u200d", "👍\u200da", "a\u200d👍", "\u200d👍", "👍\u200d\u200d👍",
			// Variation selectors without what they vary.
			"\ufe0f", "\ufe0e", "\U000e0101", "\u180b", "\u180f", "\ufe00", "\ufe0f\ufe0f", "a\ufe0f", "1\ufe0f", "❤\ufe0f\ufe0f", "a\U000e0100", "葛\U000e0100\U000e0100", "葛\ufe0f", "a\u180b",
			// Tag characters without a flag, and flags of nowhere.
			"\U000e0067", "a\U000e0067\U000e007f", "🏴\U000e0067", "🏴\U000e007f", "🏴\U000e0067\U000e0062\U000e007f", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074", "👍\U000e0067\U000e0062\U000e0073\U000e007f",
			// Drawn as nothing.
			"\u2800", "a\u2800b", "\U0001d159", "\u115f", "\u1160", "\u3164", "\uffa0", "\u17b4", "\u17b5", "ក\u17b4", "\u034f", "a\u034f", "\ufffc", "\U00013441",
		},
		noBase:     {"\u0301", "\u0301\u0301", "\U00016fe4", "a\U00016fe4", "a \u0301b", "\u093e", "a\u093e", "\u20e3", "\u0e31", "अ\u0e31", "a \u064e"},
		pile:       {"e\u0301\u0302\u0303\u0304\u0305", "é\u0302\u0303\u0304\u0305", "a\u0316\u0316", "क" + strings.Repeat("\u093e", 9)},
		tooTall:    {"a" + strings.Repeat("🏻", 13), "👩" + strings.Repeat("\u200d👩", 12)},
		halfHangul: {"\u1100", "\u1112\u1161\u11ab\u11ab", strings.Repeat("\u1100", 12)},
		"A name has at most 40 characters; this one has 41.":        {strings.Repeat("x", 41), strings.Repeat("🇩🇪", 41), strings.Repeat("e\u0323\u0301", 41)},
		"A name has at most 40 characters; this one has many more.": {strings.Repeat("x", 8000), "a" + strings.Repeat("\u0301", 1000)},
		"A name takes at most 400 bytes; this one takes 1000.":      {strings.Repeat("👨\u200d👩\u200d👧\u200d👦", 40)},
		braces:      {"{{x}}", "{{", " {{x"},
		rootElement: {"a<root>b", "a</ROOT>"},
	} {
		for _, name := range names {
			got, err := CleanName(name)
			if refused := (*NameError)(nil); !errors.As(err, &refused) || refused.Reason != reason {
				t.Errorf("CleanName(%+q) = %q, %v; want %q", name, got, err, reason)
			}
		}
	}
}

func TestLongestNamesFit(t *testing.T) {
	family := "👨\u200d👩\u200d👧\u200d👦" // 25 bytes
	if got, err := CleanName(strings.Repeat(family, MaxNameBytes/25)); err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := CleanName(strings.Repeat(family, MaxNameBytes/25) + "x"); err == nil {
		t.Errorf("%d bytes were accepted", len(got))
	}
	// What is typed counts as it is kept: these are 120 code points in 360 bytes.
	if got, err := CleanName(strings.Repeat("\u1112\u1161\u11ab", MaxName)); err != nil || got != strings.Repeat("한", MaxName) {
		t.Errorf("%q, %v", got, err)
	}
}

func FuzzCleanName(f *testing.F) {
	for _, name := range append(goodNames(), " a  b ", "{{x}}", "e\u0301", "a\u202eb", "\xff", "ﷺ", "a\u200d", "\u0301", "\ufe0f", "🏴\U000e0067") {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		name, err := CleanName(raw)
		if err != nil {
			if refused := (*NameError)(nil); !errors.As(err, &refused) || !utf8.ValidString(err.Error()) {
				t.Fatalf("CleanName(%q): %v", raw, err)
			}
			return
		}
		checkProperties(t, raw, name)
	})
}

// checkProperties fails the test unless name is one that CleanName may make of raw.
func checkProperties(t *testing.T, raw, name string) {
	t.Helper()
	if n := uniseg.GraphemeClusterCount(name); n < 1 || n > MaxName || len(name) > MaxNameBytes {
		t.Fatalf("CleanName(%q) = %q, of %d characters in %d bytes", raw, name, n, len(name))
	}
	if !utf8.ValidString(name) || !norm.NFC.IsNormalString(name) || strings.TrimSpace(name) != name || strings.Contains(name, "  ") {
		t.Fatalf("CleanName(%q) = %q", raw, name)
	}
	visible := false
	for _, r := range name {
		switch {
		case unicode.IsMark(r), r == ' ':
		case unicode.IsGraphic(r):
			visible = true
		case r == zwj, r == zwnj, r >= 0xe0030 && r <= cancelTag:
		default:
			t.Fatalf("CleanName(%q) = %q with %U", raw, name, r)
		}
	}
	if first, _ := utf8.DecodeRuneInString(name); !visible || unicode.IsMark(first) {
		t.Fatalf("CleanName(%q) = %q, which shows nothing, or what belongs to a letter before", raw, name)
	}
	if again, err := CleanName(name); err != nil || again != name {
		t.Fatalf("CleanName(%q) = %q, and of that %q, %v", raw, name, again, err)
	}
}

// Every character by itself, after a letter and between two: nothing that is drawn as
// nothing gets through, and no rule contradicts another.
func TestEveryCharacter(t *testing.T) {
	for r := rune(0); r <= 0xe1000; r++ {
		switch {
		case r == 0x34000:
			r = 0xe0000 // there is nothing between
		case unicode.In(r, unicode.Unified_Ideograph, unicode.Hangul) && r%256 != 0:
			continue // they are all alike
		}
		for _, raw := range []string{string(r), "a" + string(r), "क\u094d" + string(r) + "ष", "👍" + string(r) + "👍"} {
			name, err := CleanName(raw)
			if err != nil {
				continue
			}
			checkProperties(t, raw, name)
			if ignorable := unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector); ignorable && raw == string(r) {
				t.Errorf("the name %+q is accepted", raw)
			}
		}
	}
}
