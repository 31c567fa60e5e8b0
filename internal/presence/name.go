package presence

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

const (
	// MaxName is the longest name, in characters (Unicode code points).
	MaxName = 40

	// maxMarks is how many combining marks may follow each other: enough for
	// every living script, too few to paint over the neighbouring lines.
	maxMarks = 3
)

// CleanName turns what somebody typed into the name that others see: Unicode
// NFC (UAX #15), with blanks at the ends removed and runs of blanks inside made
// one space. The same person typing the same name twice so gets the same name.
//
// The error is a [*NameError] whose text can be shown on the form. Refused are
// names that are empty, longer than [MaxName] characters, not UTF-8, or that
// contain control, bidirectional-override, zero-width, private-use or
// unassigned characters, or more than three combining marks in a row; and names
// of the form "{{x}}", which the browser client would show as nothing.
func CleanName(raw string) (string, error) {
	if !utf8.ValidString(raw) {
		return "", &NameError{"This name is not valid text. Please type it again."}
	}
	name := strings.Join(strings.FieldsFunc(norm.NFC.String(strings.TrimSpace(raw)), isBlank), " ")
	switch n := utf8.RuneCountInString(name); {
	case n == 0:
		return "", &NameError{"Please type a name."}
	case n > MaxName:
		return "", &NameError{fmt.Sprintf("A name has at most %d characters; this one has %d.", MaxName, n)}
	}
	marks := 0
	for _, r := range name {
		switch {
		case r == '\u034f' || r == '\u115f' || r == '\u1160' || r == '\u17b4' || r == '\u17b5' || r == '\u3164' || r == '\uffa0' || r == '\u2800':
			// Fillers: printable by category, invisible on the screen.
			return "", &NameError{"A name can't contain invisible characters."}
		case unicode.Is(unicode.Mn, r) || unicode.Is(unicode.Me, r):
			if r >= '\ufe00' && r <= '\ufe0f' || r >= '\U000e0100' && r <= '\U000e01ef' {
				continue // variation selectors, part of many emoji
			}
			if marks++; marks > maxMarks {
				return "", &NameError{"A name can't pile up that many accents on one letter."}
			}
		case r == ' ' || unicode.IsGraphic(r) && !unicode.In(r, unicode.Zl, unicode.Zp):
			marks = 0
		default:
			return "", &NameError{"A name can't contain control or invisible characters."}
		}
	}
	if strings.HasPrefix(name, "{{") {
		return "", &NameError{"A name can't begin with {{."}
	}
	if lower := strings.ToLower(name); strings.Contains(lower, "<root>") || strings.Contains(lower, "</root>") {
		return "", &NameError{"A name can't contain <root>."}
	}
	return name, nil
}

// isBlank reports whether r is a blank that a name may contain between words.
// Line breaks and tabs are not among them: they are control characters.
func isBlank(r rune) bool { return unicode.Is(unicode.Zs, r) }
