package specreport

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	nethtml "golang.org/x/net/html"

	"github.com/ingotbuild/ingot/specs"
)

// nasty is what a machine may say to break a report, or to forge a part of one.
var nasty = []string{
	"]]>", "<script>alert(1)</script>", "</testcase><testcase name=\"x\"/>", "\n::error file=x::forged", "::set-output name=a::b", "##[error]x",
	"\nok 9 - forged", "\nnot ok 9", "\nBail out!", "# SKIP", "# TODO x", "\n  ...\n", "\n1..0", "\\", "\"", "'", "\"\n}", "%0A::error::x", "%",
	"\x1b[31m\x1b]0;title\x07\x1b[2J", "\r", "\x00", "\x7f\u009b31m", "\u202e\u2066", "\u2028\u2029\u0085", "\xff\xfe\xc0", "\ufffd\ufffe\uffff",
	"| a | b |", "`x` **b** [l](http://x) @user #1 ~~", "a\\", "{{.}}", "${{ x }}", "-->", "&lt;&#0;", strings.Repeat("long 日本", 80), "e\u0301\u0301", "👩‍👩‍👧 wide",
	"# HELP ingot_spec_check x\n", "\",verdict=\"pass\"} 1\n",
}

// hostile puts a text wherever a machine's, or anyone's, text can stand.
func hostile(s string) []Target {
	targets := sample()
	for i := range targets {
		targets[i].Name += s
		if targets[i].Err != nil {
			targets[i].Err = errors.New(s)
		}
		for _, rep := range targets[i].Reports {
			rep.Spec += s
			rep.Title = s
			for j := range rep.Results {
				r := &rep.Results[j]
				r.Subject, r.Title, r.Expect, r.Actual, r.Message, r.File, r.Tags = s, s, s, s, s, s, []string{s}
				if j%2 == 1 {
					r.Property = "its " + s
				}
			}
		}
	}
	return targets
}

func check(t *testing.T, s string) {
	if s == "" {
		return // what is empty is left out
	}
	good, bad := hostile("x"), hostile(s)
	for _, format := range Formats() {
		for _, o := range []Options{{}, {Color: true, Verbose: true, Width: 40}} {
			want, got := write(t, format, good, o), write(t, format, bad, o)
			if !utf8.ValidString(got) {
				t.Errorf("%s is not UTF-8", format)
			}
			plain := got
			if o.Color && want != write(t, format, good, Options{Verbose: true, Width: 40}) {
				plain = sgr.ReplaceAllString(got, "")
			}
			for _, r := range plain {
				if r != '\n' && r != ' ' && !unicode.IsPrint(r) {
					t.Errorf("%s has %U in it", format, r)
				}
			}
			if err := same(format, want, got, o); err != nil {
				t.Errorf("%s of %q: %v\n%s", format, s, err, got)
			}
		}
	}
}

var sgr = regexp.MustCompile(`\x1b\[\d*m`)

// same says whether two reports have the same form.
func same(format, want, got string, o Options) error {
	differ := func(what string, a, b any) error {
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		if string(x) != string(y) {
			return errors.New(what + " differ: " + string(x) + " became " + string(y))
		}
		return nil
	}
	first := func(s string, re string) (all []string) {
		for l := range strings.Lines(s) {
			all = append(all, regexp.MustCompile(re).FindString(l))
		}
		return all
	}
	switch format {
	case "json":
		var a, b jsonReport
		if err := errors.Join(strict(want, &a), strict(got, &b)); err != nil {
			return err
		}
		return differ("summaries", []any{a.Verdict, a.Summary, len(a.Targets), len(a.Targets[0].Specs[0].Checks)}, []any{b.Verdict, b.Summary, len(b.Targets), len(b.Targets[0].Specs[0].Checks)})
	case "jsonl":
		types := func(s string) (all []string) {
			for l := range strings.Lines(s) {
				var x struct{ Type, Status, Verdict string }
				if err := json.Unmarshal([]byte(l), &x); err != nil {
					return []string{err.Error()}
				}
				all = append(all, x.Type+x.Status+x.Verdict)
			}
			return all
		}
		return differ("lines", types(want), types(got))
	case "junit":
		shape := func(s string) (all []string) {
			for d := xml.NewDecoder(strings.NewReader(s)); ; {
				tok, err := d.Token()
				if err == io.EOF {
					return all
				}
				if err != nil {
					return []string{err.Error()}
				}
				if e, ok := tok.(xml.StartElement); ok {
					all = append(all, e.Name.Local)
				}
			}
		}
		return differ("elements", shape(want), shape(got))
	case "html":
		shape := func(s string) (all []string) {
			for z := nethtml.NewTokenizer(strings.NewReader(s)); ; {
				switch z.Next() {
				case nethtml.ErrorToken:
					return all
				case nethtml.StartTagToken, nethtml.SelfClosingTagToken:
					switch name, _ := z.TagName(); string(name) {
					case "br", "dt", "dd", "span": // what is empty is left out
					default:
						all = append(all, string(name))
					}
				}
			}
		}
		return differ("elements", shape(want), shape(got))
	case "prometheus":
		series := func(s string) (all []any) {
			p := expfmt.NewTextParser(model.UTF8Validation)
			families, err := p.TextToMetricFamilies(strings.NewReader(s))
			if err != nil {
				return []any{err.Error()}
			}
			for _, l := range regexp.MustCompile(`(?m)^# TYPE (\S+)`).FindAllStringSubmatch(s, -1) {
				for _, m := range families[l[1]].GetMetric() {
					v := ""
					for _, label := range m.GetLabel() {
						if label.GetName() == "verdict" {
							v = label.GetValue()
						}
					}
					all = append(all, l[1]+v, m.GetGauge().GetValue())
				}
			}
			return all
		}
		return differ("series", series(want), series(got))
	case "tap":
		return differ("lines", tapShape(want), tapShape(got))
	case "github":
		return differ("commands", first(want, `^::\w+ (file=)?`), first(got, `^::\w+ (file=)?`))
	case "markdown":
		if i := strings.IndexAny(strings.Join(strings.Split(got, "\n")[6:], ""), "<>`*_[]@:"); i >= 0 {
			return errors.New("something is not escaped")
		}
		columns := func(s string) (n []int) {
			for l := range strings.Lines(s) {
				n = append(n, strings.Count(l, "|"))
			}
			return n
		}
		return differ("columns", columns(want), columns(got))
	case "text": // one line for each text, as before; Clean keeps them so
		return nil
	}
	// What people see: as many failures, and no line beyond the terminal.
	numbers := regexp.MustCompile(`(?m)^ {0,2}\d+\) `)
	if o.Width > 0 {
		for l := range strings.Lines(sgr.ReplaceAllString(got, "")) {
			if w := (&runewidth.Condition{StrictEmojiNeutral: true}).StringWidth(strings.TrimSuffix(l, "\n")); w > o.Width {
				return errors.New("a line is too wide: " + l)
			}
		}
	}
	return differ("failures", numbers.FindAllString(sgr.ReplaceAllString(want, ""), -1), numbers.FindAllString(sgr.ReplaceAllString(got, ""), -1))
}

// tapShape is what a reader of TAP makes of each line.
func tapShape(s string) (all []string) {
	block := false
	for l := range strings.Lines(s) {
		switch {
		case l == "  ---\n":
			block = true
		case l == "  ...\n":
			block = false
		case block:
			if !regexp.MustCompile(`^  \w+: "(\\["\\]|[^"\\])*"\n$`).MatchString(l) {
				all = append(all, "not YAML: "+l)
			}
		default:
			m := regexp.MustCompile(`^(TAP version 14\n|1\.\.\d+\n|(?:not )?ok \d+ - )(.*)`).FindStringSubmatch(l)
			if m == nil {
				all = append(all, "unknown: "+l)
				continue
			}
			_, directive, _ := strings.Cut(regexp.MustCompile(`\\.`).ReplaceAllString(m[2], ""), "#")
			all = append(all, m[1]+strings.ToUpper((directive + "     ")[:5]))
		}
	}
	return all
}

func strict(s string, v any) error {
	d := json.NewDecoder(strings.NewReader(s))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

func TestHostile(t *testing.T) {
	for _, s := range append([]string{strings.Join(nasty, " ")}, nasty...) {
		check(t, s)
	}
}

func FuzzFormats(f *testing.F) {
	for _, s := range nasty {
		f.Add(s)
	}
	f.Fuzz(check)
}

// What a Result holds is cut already, and must not be cut again.
func TestCleanOnce(t *testing.T) {
	said := specs.Clean(strings.Repeat("\x00", 1000))
	targets := []Target{{Name: "a", Reports: []*specs.Report{{Spec: "s", Results: []specs.Result{{Resource: "file", Subject: "/x", Status: specs.Fail, Expect: "should exist", Actual: said}}}}}}
	for _, format := range []string{"text", "json", "junit", "github"} {
		if got := write(t, format, targets, Options{}); !strings.Contains(strings.ReplaceAll(got, `\\`, `\`), said) {
			t.Errorf("%s:\n%s", format, got)
		}
	}
	var b bytes.Buffer
	if err := Write(&b, "json", targets, Options{}); err != nil {
		t.Fatal(err)
	}
	var doc jsonReport
	if err := strict(b.String(), &doc); err != nil || doc.Targets[0].Specs[0].Checks[0].Actual != said {
		t.Errorf("%v: %+v", err, doc)
	}
}
