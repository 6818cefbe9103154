package goss

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/semver"
)

// A constraint is a range of semantic versions: alternatives, in each of which
// every comparison has to hold.
type constraint [][]comparison

type comparison struct {
	op   string
	want string // with a v, as package semver has it
}

// canonical gives a full version (three numbers) as package semver has it.
func canonical(s string) (string, bool) {
	v := "v" + s
	core, _, _ := strings.Cut(s, "+")
	core, _, _ = strings.Cut(core, "-")
	return v, semver.IsValid(v) && strings.Count(core, ".") == 2
}

// parseConstraint reads ">1.0.0 <2.0.0 !=1.5.0 || 3.x".
func parseConstraint(s string) (constraint, error) {
	bad := func(what string) error {
		return fmt.Errorf("%q is no range of semantic versions such as \">=1.2.0 <2.0.0 || 3.x\": %s", s, what)
	}
	var c constraint
	for _, alternative := range strings.Split(s, "||") {
		// An operator may stand apart from its version.
		var words []string
		for _, w := range strings.Fields(alternative) {
			if w == "," {
				continue
			}
			if n := len(words); n > 0 && strings.Trim(words[n-1], "<>=!") == "" {
				words[n-1] += w
				continue
			}
			words = append(words, w)
		}
		if len(words) == 0 {
			return nil, bad("it has an empty part")
		}
		var all []comparison
		for _, w := range words {
			version := strings.TrimLeft(w, "<>=!")
			op := strings.TrimSuffix(w, version)
			switch op {
			case "=", "==":
				op = ""
			case "!":
				op = "!="
			case "", ">", ">=", "<", "<=", "!=":
			default:
				return nil, bad(fmt.Sprintf("there is no operator %q", op))
			}
			if from, to, ok := wildcard(version); ok {
				switch op {
				case "":
					all = append(all, comparison{">=", from}, comparison{"<", to})
				case ">":
					all = append(all, comparison{">=", to})
				case ">=":
					all = append(all, comparison{">=", from})
				case "<":
					all = append(all, comparison{"<", from})
				case "<=":
					all = append(all, comparison{"<", to})
				case "!=":
					all = append(all, comparison{"outside", from + " " + to})
				}
				continue
			}
			v, ok := canonical(version)
			if !ok {
				return nil, bad(fmt.Sprintf("%q is no full version, which has three numbers", version))
			}
			all = append(all, comparison{op, v})
		}
		c = append(c, all)
	}
	return c, nil
}

// wildcard gives the bounds of 1.x, 1.2.x and 1.x.x.
func wildcard(s string) (from, to string, ok bool) {
	parts := strings.Split(s, ".")
	var fixed []int
	for i, p := range parts {
		if p == "x" || p == "X" {
			ok = true
			continue
		}
		n, err := strconv.Atoi(p)
		if err != nil || ok || i > 1 || n < 0 || n > 1<<30 || strconv.Itoa(n) != p {
			return "", "", false
		}
		fixed = append(fixed, n)
	}
	if !ok || len(fixed) == 0 || len(parts) > 3 {
		return "", "", false
	}
	if len(fixed) == 1 {
		return fmt.Sprintf("v%d.0.0", fixed[0]), fmt.Sprintf("v%d.0.0", fixed[0]+1), true
	}
	return fmt.Sprintf("v%d.%d.0", fixed[0], fixed[1]), fmt.Sprintf("v%d.%d.0", fixed[0], fixed[1]+1), true
}

func (c constraint) holds(version string) bool {
	for _, all := range c {
		ok := true
		for _, x := range all {
			if x.op == "outside" {
				from, to, _ := strings.Cut(x.want, " ")
				ok = ok && (semver.Compare(version, from) < 0 || semver.Compare(version, to) >= 0)
				continue
			}
			switch order := semver.Compare(version, x.want); x.op {
			case "":
				ok = ok && order == 0
			case "!=":
				ok = ok && order != 0
			case ">":
				ok = ok && order > 0
			case ">=":
				ok = ok && order >= 0
			case "<":
				ok = ok && order < 0
			case "<=":
				ok = ok && order <= 0
			}
		}
		if ok {
			return true
		}
	}
	return false
}

// semantic wants every version of a list, which may be a single one, in a range.
type semantic struct {
	text   string
	within constraint
}

func (m semantic) match(actual any, negated bool) Outcome {
	o := Outcome{Actual: actual, Expected: m.text, Message: words("to satisfy semver constraint", negated)}
	var versions []string
	switch v := actual.(type) {
	case string:
		versions = []string{v}
	case Reader:
		versions = []string{string(v)}
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				o.Err = fmt.Errorf("%s is no version", say(e))
				return o
			}
			versions = append(versions, s)
		}
	}
	if len(versions) == 0 {
		o.Err = fmt.Errorf("a version or a list of them is expected, and it is %s", say(actual))
		return o
	}
	o.OK = true
	for _, s := range versions {
		v, ok := canonical(s)
		if !ok {
			o.Err = fmt.Errorf("%q is no semantic version", s)
			return o
		}
		o.OK = o.OK && m.within.holds(v)
	}
	return o
}

func (m semantic) show() any { return map[string]any{"semver-constraint": m.text} }
