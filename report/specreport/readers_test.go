package specreport

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// need gives a program of a reader, or skips; CI has to have it.
func need(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return p
}

func run(t *testing.T, name string, arg ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(need(t, name), arg...).CombinedOutput()
	return string(out), err
}

func save(t *testing.T, name, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestJUnitReaders(t *testing.T) {
	for name, targets := range map[string][]Target{"sample": sample(), "hostile": hostile(strings.Join(nasty, " ")), "none": nil} {
		file := save(t, "junit.xml", write(t, "junit", targets, Options{}))
		t.Run(name+" by the schema", func(t *testing.T) {
			if out, err := run(t, "xmllint", "--noout", "--nonet", "--schema", "testdata/junit.xsd", file); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	t.Run("by junitparser", func(t *testing.T) {
		const python = "/usr/bin/python3" // Debian's, since the module is
		if out, err := run(t, python, "-c", "import junitparser"); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(out)
			}
			t.Skip("needs python3-junitparser")
		}
		file := save(t, "junit.xml", write(t, "junit", sample(), Options{}))
		out, err := run(t, python, "-c", `
import json, sys, junitparser
got = []
x = junitparser.JUnitXml.fromfile(sys.argv[1])
for s in x:
    for c in s:
        r = c.result
        r = r if isinstance(r, list) else [r] if r else []
        got.append([s.name, c.classname, c.name] + [[type(e).__name__, e.message] for e in r])
print(json.dumps([x.tests, x.failures, x.errors, x.skipped, got]))`, file)
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var got []any
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		want := []any{8.0, 1.0, 2.0, 2.0, []any{
			[]any{"web.sandbox.a/web", "package", "nginx should be installed"},
			[]any{"web.sandbox.a/web", "file", `/etc/nginx/nginx.conf its content should not match /server_tokens\s+on/`, []any{"Failure", "line 31: server_tokens on; # 100%"}},
			[]any{"web.sandbox.a/web", "file", "/etc/nginx/nginx.conf should be mode 0644"},
			[]any{"web.sandbox.a/web", "service", "nginx should be running", []any{"Error", "no service manager runs here"}},
			[]any{"web.sandbox.a/base", "selinux", "should be enforcing", []any{"Skipped", `when is false: os.family is "debian"`}},
			[]any{"web.sandbox.a/base", "command", `cat /etc/motd 日本語 its stdout should eq "日本語のとても長いテキスト、折り返しが必要です。日本語のとても長いテキスト、折り返しが必要です。"`, []any{"Skipped", "waived until 2031-12-31: next release"}},
			[]any{"ssh://root@db1", "machine", "could not be checked, or not all of it", []any{"Error", "connect to db1:22: connection refused"}},
			[]any{"ssh://root@db2/base", "port", "22 should be listening"},
		}}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if string(a) != string(b) {
			t.Errorf("got\n%s\nwanted\n%s", a, b)
		}
	})
}

// Perl's TAP::Parser is the reader of TAP that all others are measured by.
func TestTAPReader(t *testing.T) {
	const program = `use TAP::Parser; local $/; open F, "<:encoding(UTF-8)", $ARGV[0]; binmode STDOUT, ":utf8";
my $p = TAP::Parser->new({tap => <F>});
while (my $r = $p->next) {
	print join("|", $r->number, $r->is_actual_ok ? "ok" : "not ok", $r->directive, $r->explanation), "\n" if $r->is_test;
	print "unknown: ", $r->as_string, "\n" if $r->is_unknown || $r->is_bailout;
	print "yaml: ", $r->data->{state}, "|", $r->data->{actual} // "", "\n" if $r->is_yaml;
}
print join("|", $p->version, $p->tests_planned, scalar $p->passed, scalar $p->failed, scalar $p->skipped, scalar $p->todo, scalar $p->parse_errors), "\n", $p->parse_errors;`
	text := write(t, "tap", sample(), Options{})
	got, err := run(t, "perl", "-e", program, save(t, "a.tap", text))
	if err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	want := `1|ok||
2|not ok||
yaml: fail|line 31: server_tokens on; # 100%
3|ok||
4|not ok||
yaml: error|
5|ok|SKIP|when is false: os.family is "debian"
6|not ok|TODO|waived until 2031-12-31: next release
yaml: waived|"old"
7|not ok||
yaml: error|
8|ok||
`
	// Older readers know the version 13 and call 14 an error.
	head, tail, _ := strings.Cut(got, "\n8|ok||\n")
	if head+"\n8|ok||\n" != want || !strings.HasPrefix(tail, "14|8|5|3|1|1|") && !strings.HasPrefix(tail, "13|8|5|3|1|1|") {
		t.Errorf("got\n%s\nwanted\n%s", got, want)
	}
	bad, err := run(t, "perl", "-e", program, save(t, "b.tap", write(t, "tap", hostile(strings.Join(nasty, " ")), Options{})))
	if err != nil || strings.Contains(bad, "unknown: ") || !strings.Contains(bad, "|8|5|3|1|1|") {
		t.Errorf("%v:\n%s", err, bad)
	}
}

func TestPromtool(t *testing.T) {
	p, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not here; TestPrometheus reads the format by its library")
	}
	for _, targets := range [][]Target{sample(), hostile(strings.Join(nasty, " ")), nil} {
		cmd := exec.Command(p, "check", "metrics")
		cmd.Stdin = strings.NewReader(write(t, "prometheus", targets, Options{}))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v: %s", err, out)
		}
	}
}
