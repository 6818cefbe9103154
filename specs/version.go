package specs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/semver"
)

// A scheme is one package manager's idea of which version is newer.
type scheme struct {
	name string
	// compare gives -1, 0 or 1 for two upstream versions or two revisions.
	compare func(a, b string) int
	// cut splits a whole version. Parts that are absent are empty.
	cut func(v string) (epoch, upstream, revision string)
	// valid says whether v can be compared at all.
	valid func(v string) bool
}

// schemeOf knows the package managers by the names that the package script prints.
func schemeOf(manager string) (scheme, error) {
	switch manager {
	case "dpkg":
		return scheme{"dpkg", compareDpkg, cutEVR, dpkgVersion.MatchString}, nil
	case "rpm":
		return scheme{"rpm", compareRPM, cutEVR, rpmVersion.MatchString}, nil
	case "pacman":
		return scheme{"pacman", comparePacman, cutEVR, rpmVersion.MatchString}, nil
	case "apk":
		return scheme{"apk", compareAPK, cutAPK, apkVersion.MatchString}, nil
	case "gem":
		return scheme{"gem", compareGem, whole, gemVersion.MatchString}, nil
	case "npm":
		compare := func(a, b string) int { return semver.Compare("v"+a, "v"+b) }
		return scheme{"npm", compare, whole, func(v string) bool { return semver.IsValid("v" + v) }}, nil
	case "pip":
		return scheme{"pip", comparePip, whole, func(v string) bool { return pipVersion.MatchString(strings.ToLower(v)) }}, nil
	case "windows", "chocolatey", "psmodule":
		return scheme{manager, compareWindows, whole, windowsVersion.MatchString}, nil
	case "pear", "pecl":
		return scheme{manager, comparePear, whole, anyVersion.MatchString}, nil
	}
	return scheme{}, fmt.Errorf("no version order is known for package manager %q", manager)
}

var (
	dpkgVersion = regexp.MustCompile(`^(\d+:)?[A-Za-z0-9.+~-]+$`)
	rpmVersion  = regexp.MustCompile(`^(\d+:)?[A-Za-z0-9.+~^_-]+$`)
	apkVersion  = regexp.MustCompile(`^\d+(\.\d+)*[a-z]?(_(alpha|beta|pre|rc|cvs|svn|git|hg|p)\d*)*(~[0-9a-f]+)?(-r\d+)?$`)
	anyVersion  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+~^:_-]*$`)
)

// order compares an installed version with a wanted one. A part that the
// wanted version does not name is not compared: "1.24" is equal to
// "1:1.24-3", because who writes it has the upstream version in mind.
func (s scheme) order(installed, wanted string) (int, error) {
	for _, v := range []string{installed, wanted} {
		if !s.valid(v) {
			return 0, fmt.Errorf("%q is not a version that %s can compare", v, s.name)
		}
	}
	ie, iu, ir := s.cut(installed)
	we, wu, wr := s.cut(wanted)
	if we != "" {
		if c := compareDigits(ie, we); c != 0 {
			return c, nil
		}
	}
	if c := s.compare(iu, wu); c != 0 || wr == "" {
		return c, nil
	}
	return s.compare(ir, wr), nil
}

func cutEVR(v string) (epoch, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, v = e, rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		v, revision = v[:i], v[i+1:]
	}
	return epoch, v, revision
}

func cutAPK(v string) (epoch, upstream, revision string) {
	if i := strings.LastIndex(v, "-r"); i >= 0 {
		v, revision = v[:i], v[i+2:]
	}
	return "", v, revision
}

func digit(c byte) bool  { return '0' <= c && c <= '9' }
func letter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// span cuts off the longest prefix whose bytes are all in the class.
func span(s string, class func(byte) bool) (head, tail string) {
	i := 0
	for i < len(s) && class(s[i]) {
		i++
	}
	return s[:i], s[i:]
}

// compareDigits compares decimal numbers of any length.
func compareDigits(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	if len(a) != len(b) {
		return sign(len(a) - len(b))
	}
	return strings.Compare(a, b)
}

func sign(n int) int { return min(1, max(-1, n)) }

// compareDpkg follows deb-version(7): digits as numbers, the rest by letters
// before everything else, with "~" before even the end.
func compareDpkg(a, b string) int {
	weight := func(s string) int {
		switch {
		case s == "":
			return 0
		case s[0] == '~':
			return -1
		case letter(s[0]):
			return int(s[0])
		}
		return int(s[0]) + 256
	}
	notDigit := func(c byte) bool { return !digit(c) }
	for a != "" || b != "" {
		var x, y string
		x, a = span(a, notDigit)
		y, b = span(b, notDigit)
		for x != "" || y != "" {
			if c := weight(x) - weight(y); c != 0 {
				return sign(c)
			}
			x, y = x[1:], y[1:]
		}
		x, a = span(a, digit)
		y, b = span(b, digit)
		if c := compareDigits(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// compareRPM follows rpm's own rules: runs of digits or letters count, what
// separates them does not, and a number beats a word.
func compareRPM(a, b string) int {
	separator := func(c byte) bool { return !digit(c) && !letter(c) && c != '~' && c != '^' }
	const tilde, end, caret, segment = 0, 1, 2, 3 // in rpm's order
	next := func(s string) int {
		switch {
		case s == "":
			return end
		case s[0] == '~':
			return tilde
		case s[0] == '^':
			return caret
		}
		return segment
	}
	for {
		_, a = span(a, separator)
		_, b = span(b, separator)
		if c := next(a) - next(b); c != 0 {
			return sign(c)
		}
		switch next(a) {
		case end:
			return 0
		case tilde, caret:
			a, b = a[1:], b[1:]
			continue
		}
		var c int
		if c, a, b = compareSegment(a, b); c != 0 {
			return c
		}
	}
}

// compareSegment compares the runs of digits or of letters that a and b begin
// with, and gives what follows them.
func compareSegment(a, b string) (c int, restA, restB string) {
	class := letter
	if digit(a[0]) {
		class = digit
	}
	x, restA := span(a, class)
	y, restB := span(b, class)
	switch {
	case y == "" && digit(a[0]):
		c = 1
	case y == "":
		c = -1
	case digit(a[0]):
		c = compareDigits(x, y)
	default:
		c = strings.Compare(x, y)
	}
	return c, restA, restB
}

// comparePacman follows vercmp(8), which is an older form of rpm's order: the
// length of a separator counts, and a word after the end makes a version older.
func comparePacman(a, b string) int {
	if a == b {
		return 0
	}
	separator := func(c byte) bool { return !digit(c) && !letter(c) }
	for a != "" && b != "" {
		x, restA := span(a, separator)
		y, restB := span(b, separator)
		a, b = restA, restB
		if a == "" || b == "" {
			break
		}
		if c := len(x) - len(y); c != 0 {
			return sign(c)
		}
		var c int
		if c, a, b = compareSegment(a, b); c != 0 {
			return c
		}
	}
	switch {
	case a == "" && b == "":
		return 0
	case a == "" && !letter(b[0]), a != "" && letter(a[0]):
		return -1
	}
	return 1
}

// The parts of an apk version, in the order in which they beat one another
// where two versions part: the earlier kind is the newer version.
const (
	apkNumber = iota
	apkLetter
	apkSuffix
	apkSuffixNumber
	apkHash
	apkEnd
)

type apkToken struct {
	kind int
	text string
}

var apkPart = regexp.MustCompile(`^\.?(\d+)|^([a-z])|^_([a-z]+)(\d*)|^~([0-9a-f]+)`)

// apkTokens takes an apk version without its revision.
func apkTokens(v string) []apkToken {
	var out []apkToken
	for v != "" {
		m := apkPart.FindStringSubmatch(v)
		if m == nil {
			break
		}
		v = v[len(m[0]):]
		switch {
		case m[1] != "":
			out = append(out, apkToken{apkNumber, m[1]})
		case m[2] != "":
			out = append(out, apkToken{apkLetter, m[2]})
		case m[3] != "":
			out = append(out, apkToken{apkSuffix, m[3]})
			if m[4] != "" {
				out = append(out, apkToken{apkSuffixNumber, m[4]})
			}
		default:
			out = append(out, apkToken{apkHash, m[5]})
		}
	}
	return append(out, apkToken{kind: apkEnd})
}

// apkSuffixes is apk's order of suffixes; those before "" mark a version that
// comes before the release.
var apkSuffixes = []string{"alpha", "beta", "pre", "rc", "", "cvs", "svn", "git", "hg", "p"}

// compareAPK follows apk-package(5).
func compareAPK(a, b string) int {
	x, y := apkTokens(a), apkTokens(b)
	for i := range min(len(x), len(y)) {
		p, q := x[i], y[i]
		if p.kind != q.kind {
			switch {
			case p.kind == apkSuffix && preRelease(p.text):
				return -1
			case q.kind == apkSuffix && preRelease(q.text):
				return 1
			}
			return sign(q.kind - p.kind)
		}
		var c int
		switch p.kind {
		case apkEnd:
			return 0
		case apkSuffix:
			c = slices.Index(apkSuffixes, p.text) - slices.Index(apkSuffixes, q.text)
		case apkNumber:
			// After the first, a number with a leading zero is a fraction.
			if i > 0 && (p.text[0] == '0' || q.text[0] == '0') {
				c = strings.Compare(p.text, q.text)
			} else {
				c = compareDigits(p.text, q.text)
			}
		case apkSuffixNumber:
			c = compareDigits(p.text, q.text)
		default:
			c = strings.Compare(p.text, q.text)
		}
		if c != 0 {
			return sign(c)
		}
	}
	return 0
}

func preRelease(suffix string) bool {
	return slices.Index(apkSuffixes, suffix) < slices.Index(apkSuffixes, "")
}

// A constraint is what with_version asks for: every term holds.
type constraint []term

type term struct{ op, version string }

var termSyntax = regexp.MustCompile(`^(>=|<=|!=|==|=|>|<)?\s*(\S+)$`)

// parseConstraint reads terms joined by commas, each an operator and a
// version. Without an operator the version has to be equal.
func parseConstraint(s string) (constraint, error) {
	var out constraint
	for _, part := range strings.Split(s, ",") {
		m := termSyntax.FindStringSubmatch(strings.TrimSpace(part))
		if m == nil || !anyVersion.MatchString(m[2]) {
			return nil, fmt.Errorf("%q is not a version constraint; write e.g. \">= 1.24\" or \">= 1.24, < 2\"", s)
		}
		out = append(out, term{m[1], m[2]})
	}
	return out, nil
}

func (c constraint) holds(s scheme, installed string) (bool, error) {
	for _, t := range c {
		n, err := s.order(installed, t.version)
		if err != nil {
			return false, err
		}
		ok := n == 0
		switch t.op {
		case "!=":
			ok = n != 0
		case ">":
			ok = n > 0
		case ">=":
			ok = n >= 0
		case "<":
			ok = n < 0
		case "<=":
			ok = n <= 0
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}
