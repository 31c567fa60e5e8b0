package presence

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
	"golang.org/x/text/secure/precis"
	"golang.org/x/text/unicode/norm"
)

const (
	// MaxName is the longest name, in characters as people count them: extended
	// grapheme clusters (UAX #29).
	MaxName = 40

	// MaxNameBytes is the longest name, in bytes of UTF-8: ten for each
	// character, more than any script needs on average. A name has at most as
	// many UTF-16 units, which is how browsers count.
	MaxNameBytes = 400

	// maxNonspacing is how many marks without a width of their own a letter may have
	// (UTS #39, 5.4). maxMarks is how many marks of all kinds may follow a letter:
	// Burmese needs six.
	maxNonspacing = 4
	maxMarks      = 8

	// maxCluster is the most code points of one character: a family of four in
	// which everybody has a skin tone takes eleven.
	maxCluster = 12
)

// What is wrong with a name, for its [NameError].
const (
	notText     = "This name is not valid text. Please type it again."
	noName      = "Please type a name."
	invisible   = "A name can't contain control, unknown or invisible characters."
	noBase      = "A name can't contain an accent or sign without its letter."
	pile        = "A name can't pile up that many accents on one letter."
	tooTall     = "A name can't join that many signs into one character."
	halfHangul  = "A name can't contain incomplete Korean syllables."
	braces      = "A name can't begin with {{."
	rootElement = "A name can't contain <root>."
)

// CleanName turns what somebody typed into the name that others see: Unicode
// NFC (UAX #15), without blanks at the ends, and with one space for each run of
// blanks inside. So a person who types the same name twice gets the same name.
//
// The error is a [*NameError] whose text can be shown on the form. A name has 1 to
// [MaxName] characters in at most [MaxNameBytes] bytes, and every character of it
// can be seen. The rules are those of the free-form class of PRECIS (RFC 8264),
// from which the profile for nicknames (RFC 8266) is made, with four differences.
// NFC stands for NFKC, which would rewrite Thai. The rules for single punctuation
// marks are left out. Emoji may contain what their sequences are made of (UTS #51),
// and ideographs and Mongolian letters their variation selectors. Marks must have
// a letter of their own script before them, and not too many of them (UTS #39).
// Joiners stand only where a script or an emoji needs them (UAX #31, 2.3).
//
// Names that begin with "{{" or contain "<root>" are refused, too: the browser
// client would show them as nothing.
func CleanName(raw string) (string, error) {
	// Others decode invalid bytes as U+FFFD, too.
	if !utf8.ValidString(raw) || strings.ContainsRune(raw, utf8.RuneError) {
		return "", &NameError{notText}
	}
	name := strings.Join(strings.FieldsFunc(norm.NFC.String(strings.TrimSpace(raw)), isBlank), " ")
	for _, check := range []func(string) string{checkSize, checkCharacters, checkPiles, checkClient} {
		if reason := check(name); reason != "" {
			return "", &NameError{reason}
		}
	}
	return name, nil
}

// isBlank reports whether r is a blank that a name may contain between words.
// Line breaks and tabs are not among them: they are control characters.
func isBlank(r rune) bool { return unicode.Is(unicode.Zs, r) }

// checkSize says what is wrong with the length of a name, or "".
func checkSize(name string) string {
	if name == "" {
		return noName
	}
	if len(name) > 4*MaxNameBytes { // not worth counting
		return fmt.Sprintf("A name has at most %d characters; this one has many more.", MaxName)
	}
	count, tall := 0, false
	for rest, state := name, -1; rest != ""; count++ {
		var cluster string
		cluster, rest, _, state = uniseg.FirstGraphemeClusterInString(rest, state)
		tall = tall || utf8.RuneCountInString(cluster) > maxCluster
	}
	switch {
	case count > MaxName:
		return fmt.Sprintf("A name has at most %d characters; this one has %d.", MaxName, count)
	case tall:
		return tooTall
	case len(name) > MaxNameBytes:
		return fmt.Sprintf("A name takes at most %d bytes; this one takes %d.", MaxNameBytes, len(name))
	}
	return ""
}

// checkCharacters says which characters of a name are not allowed, or "".
func checkCharacters(name string) string {
	text := []rune(name)
	at := func(i int) rune {
		if i < 0 || i >= len(text) {
			return 0
		}
		return text[i]
	}
	base := rune(0)                // what the next mark would belong to
	var script *unicode.RangeTable // of the last mark
	for i := 0; i < len(text); i++ {
		r := text[i]
		switch {
		case r == ' ':
			base = 0
		case r == zwj || r == zwnj:
			if !joins(text, i) {
				return invisible
			}
			if at(i+1) != bengaliVirama { // after it a mark still belongs to the letter before
				base = 0
			}
		case unicode.Is(unicode.Variation_Selector, r):
			if !varies(at(i-1), r, at(i+1)) {
				return invisible
			}
		case !unicode.IsGraphic(r), unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r), isDrawnAsNothing(r):
			return invisible
		case unicode.IsMark(r):
			if script == nil || !unicode.Is(script, r) {
				script = scriptOf(r)
			}
			if base == 0 || script != nil && !unicode.Is(script, base) {
				return noBase
			}
		case isConjoiningJamo(r):
			return halfHangul
		default:
			base = r
			if r == blackFlag {
				i += tags(text[i+1:])
			}
		}
	}
	return ""
}

// checkPiles says whether a name has too many marks in a row, or "".
func checkPiles(name string) string {
	marks, nonspacing := 0, 0
	var before rune
	for _, r := range norm.NFD.String(name) { // it separates all marks from their letters
		switch {
		case unicode.Is(unicode.Variation_Selector, r):
		case !unicode.IsMark(r):
			marks, nonspacing = 0, 0
		default:
			if marks++; !unicode.Is(unicode.Mc, r) {
				nonspacing++
			}
			if marks > maxMarks || nonspacing > maxNonspacing || r == before && !unicode.Is(unicode.Mc, r) {
				return pile
			}
		}
		before = r
	}
	return ""
}

// checkClient says what of a name the browser client would not show, or "".
func checkClient(name string) string {
	if strings.HasPrefix(name, "{{") {
		return braces
	}
	if lower := strings.ToLower(name); strings.Contains(lower, "<root>") || strings.Contains(lower, "</root>") {
		return rootElement
	}
	return ""
}

// Characters that are invisible by themselves, and their company.
const (
	zwnj          = '\u200c'
	zwj           = '\u200d'
	textStyle     = '\ufe0e'
	emojiStyle    = '\ufe0f'
	keycap        = '\u20e3'
	blackFlag     = '\U0001f3f4'
	cancelTag     = '\U000e007f'
	lightSkin     = '\U0001f3fb'
	darkSkin      = '\U0001f3ff'
	bengaliRa     = '\u09b0'
	bengaliVirama = '\u09cd'
)

// joins reports whether the joiner at i stands where one is needed.
func joins(text []rune, i int) bool {
	if i == 0 || i == len(text)-1 && text[i] == zwnj {
		return false
	}
	before, after := text[i-1], rune(' ')
	if i+1 < len(text) {
		after = text[i+1]
	}
	if before == bengaliRa && after == bengaliVirama {
		return true // ra with ya-phalaa (The Unicode Standard, 12.2)
	}
	if text[i] == zwj && isPictograph(after) {
		// Within an emoji: after a pictograph, with or without style and skin tone.
		if i > 1 && (before == emojiStyle || before >= lightSkin && before <= darkSkin) {
			before = text[i-2]
		}
		return isPictograph(before)
	}
	if unicode.IsMark(after) || text[i] == zwnj && !unicode.IsLetter(after) {
		return false
	}
	// Within a word: after a virama, or between letters that would be joined. Letters
	// count without the marks between them; the library knows how letters join.
	from := i - 1
	for from > 0 && unicode.IsMark(text[from]) {
		from--
	}
	word := string(text[from : i+1])
	if text[i] == zwnj {
		word += string(after)
	}
	_, err := precis.NewFreeform().String(word)
	return err == nil
}

// varies reports whether a variation selector may follow before.
func varies(before, selector, after rune) bool {
	switch {
	case selector == emojiStyle && after == keycap && (before >= '0' && before <= '9' || before == '#' || before == '*'):
		return true
	case selector == textStyle || selector == emojiStyle:
		return isPictograph(before)
	case unicode.Is(unicode.Mongolian, selector):
		return unicode.Is(unicode.Mongolian, before) && unicode.IsLetter(before)
	default:
		return unicode.Is(unicode.Unified_Ideograph, before)
	}
}

// isPictograph reports whether emoji are made of r (UTS #51, 1.4.5): such characters are
// one character when they are joined.
func isPictograph(r rune) bool {
	return r > 0x7f && uniseg.GraphemeClusterCount(string([]rune{r, zwj, blackFlag})) == 1
}

// tags returns how many tag characters at the beginning of text turn a black flag into
// the flag of a region, such as Scotland; 0 if they do not.
func tags(text []rune) int {
	const least, most = 3, 6 // a country and a subdivision
	for n, r := range text {
		switch tagged := r - 0xe0000; {
		case r == cancelTag && n >= least:
			return n + 1
		case n < most && (tagged >= '0' && tagged <= '9' || tagged >= 'a' && tagged <= 'z'):
		default:
			return 0
		}
	}
	return 0
}

// isDrawnAsNothing reports whether r has a visible category but is blank on the screen.
func isDrawnAsNothing(r rune) bool {
	switch r {
	case '\u2800', // braille without dots
		'\ufffc',                   // stands for an object
		'\U00013441', '\U00013442', // hieroglyphs that are blank
		'\U0001d159': // note without a head
		return true
	}
	return false
}

// isConjoiningJamo reports whether r is part of a Korean syllable. NFC has composed
// the syllables that are complete.
func isConjoiningJamo(r rune) bool {
	return r >= 0x1100 && r <= 0x11ff || r >= 0xa960 && r <= 0xa97c || r >= 0xd7b0 && r <= 0xd7fb
}

// scriptOf returns the script that r belongs to, or nil if it belongs to none.
func scriptOf(r rune) *unicode.RangeTable {
	if unicode.In(r, unicode.Inherited, unicode.Common) {
		return nil
	}
	for _, script := range unicode.Scripts {
		if unicode.Is(script, r) {
			return script
		}
	}
	return nil
}
