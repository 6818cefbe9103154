package registry

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/agext/levenshtein"
)

// Ref names a version of an image: by number, by channel or, with neither, as
// the newest that is ready.
type Ref struct {
	Image   string
	Number  int    // 0: not by number
	Channel string // empty: not by channel
}

// String gives the form that ParseRef reads.
func (r Ref) String() string {
	switch {
	case r.Number != 0:
		return fmt.Sprintf("%s@v%d", r.Image, r.Number)
	case r.Channel != "":
		return r.Image + "@" + r.Channel
	}
	return r.Image
}

// ParseRef reads "web", "web@v2" or "web@production". A colon may stand for the @.
func ParseRef(s string) (Ref, error) {
	i := strings.IndexAny(s, "@:")
	if i < 0 {
		if err := CheckImage(s); err != nil {
			return Ref{}, err
		}
		return Ref{Image: s}, nil
	}
	r, pointer := Ref{Image: s[:i]}, s[i+1:]
	if err := CheckImage(r.Image); err != nil {
		return Ref{}, fmt.Errorf("%q: %w", s, err)
	}
	if !isVersion(pointer) {
		r.Channel = pointer
		if err := CheckChannel(pointer); err != nil {
			return Ref{}, fmt.Errorf("%q: %w", s, err)
		}
		return r, nil
	}
	number, err := strconv.Atoi(pointer[1:])
	if err != nil || number == 0 {
		return Ref{}, fmt.Errorf("%q: version %s can't be: versions are v1, v2 and so on", s, pointer)
	}
	r.Number = number
	return r, nil
}

// CheckImage says what is wrong with the name of an image, if anything.
func CheckImage(name string) error { return checkName("image", name) }

// CheckChannel says what is wrong with the name of a channel, if anything.
// "v2" is no channel, as it would read as a version.
func CheckChannel(name string) error {
	if isVersion(name) {
		return fmt.Errorf("channel name %q reads as a version: choose one that is not v and a number", name)
	}
	return checkName("channel", name)
}

// CheckService says what is wrong with the name of a service, if anything.
func CheckService(name string) error { return checkName("service", name) }

const maxName = 63

func checkName(what, name string) error {
	ok := len(name) > 0 && len(name) <= maxName
	for i := range len(name) {
		c := name[i]
		alnum := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		ok = ok && (alnum || i > 0 && (c == '.' || c == '_' || c == '-'))
	}
	if !ok {
		return fmt.Errorf("%s name %.80q: use up to %d letters, digits, '.', '_' and '-', the first a letter or digit", what, name, maxName)
	}
	return nil
}

// isVersion says whether s is v and a number.
func isVersion(s string) bool {
	if len(s) < 2 || s[0] != 'v' && s[0] != 'V' {
		return false
	}
	return strings.Trim(s[1:], "0123456789") == ""
}

// notFound is the error for a name that isn't among those that there are.
func notFound(what, name string, among []string) error {
	const shown = 10
	if len(among) == 0 {
		return refuse(ErrNotFound, "there is no %s %q, and no other", what, name)
	}
	list := strings.Join(among[:min(shown, len(among))], ", ")
	if len(among) > shown {
		list += fmt.Sprintf(" and %d more", len(among)-shown)
	}
	best, nearest := "", 1+len(name)/3 // further off is no likely slip
	for _, other := range among {
		if d := levenshtein.Distance(name, other, nil); d <= nearest && (best == "" || d < nearest) {
			best, nearest = other, d
		}
	}
	if best != "" {
		list += fmt.Sprintf("; did you mean %q?", best)
	}
	return refuse(ErrNotFound, "there is no %s %q; there is %s", what, name, list)
}
