package specreport

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/specs"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing them")

var now = time.Date(2031, 5, 6, 7, 8, 9, 500e6, time.UTC)

// sample is two machines, every verdict, and one that could not be asked.
func sample() []Target {
	report := func(name string, results ...specs.Result) *specs.Report {
		return &specs.Report{Schema: specs.Schema, Spec: name, Started: now.Add(-time.Minute), Seconds: 0.25, RoundTrips: 1, Results: results}
	}
	web := report("web",
		specs.Result{Resource: "package", Subject: "nginx", Property: "be_installed", Expect: "should be installed", Status: specs.Pass, Actual: "installed: 1.24", File: "web.ingot.hcl", Line: 3, Seconds: 0.01, Tries: 1},
		specs.Result{Resource: "file", Subject: "/etc/nginx/nginx.conf", Title: "hides its version", Property: "its content", Expect: `should not match /server_tokens\s+on/`, Status: specs.Fail, Actual: "line 31: server_tokens on; # 100%", File: "web.ingot.hcl", Line: 9, Seconds: 0.02, Tries: 3},
		specs.Result{Resource: "file", Subject: "/etc/nginx/nginx.conf", Property: "be_mode", Expect: "should be mode 0644", Status: specs.Pass, Actual: "0644", File: "web.ingot.hcl", Line: 10, Seconds: 0.02, Tries: 1},
		specs.Result{Resource: "service", Subject: "nginx", Property: "be_running", Expect: "should be running", Status: specs.Error, Message: "no service manager runs here", File: "web.ingot.hcl", Line: 17, Tries: 1},
	)
	web.Title = "The web server"
	return []Target{
		{Name: "web.sandbox.a", Reports: []*specs.Report{web, report("base",
			specs.Result{Resource: "selinux", Property: "be_enforcing", Expect: "should be enforcing", Status: specs.Skip, Message: `when is false: os.family is "debian"`, Tags: []string{"cis"}, File: "base.hcl", Line: 2},
			specs.Result{Resource: "command", Subject: "cat /etc/motd 日本語", Property: "its stdout", Expect: `should eq "日本語のとても長いテキスト、折り返しが必要です。日本語のとても長いテキスト、折り返しが必要です。"`, Status: specs.Waived, Actual: `"old"`, Message: "waived until 2031-12-31: next release", File: "base.hcl", Line: 5, Tries: 1},
		)}},
		{Name: "ssh://root@db1", Err: errors.New("connect to db1:22: connection refused")},
		{Name: "ssh://root@db2", Reports: []*specs.Report{report("base", specs.Result{Resource: "port", Subject: "22", Property: "be_listening", Expect: "should be listening", Status: specs.Pass, Actual: "tcp 0.0.0.0:22", File: "base.hcl", Line: 9, Tries: 1})}},
	}
}

func write(t testing.TB, format string, targets []Target, o Options) string {
	t.Helper()
	o.Now = now
	var b bytes.Buffer
	if err := Write(&b, format, targets, o); err != nil {
		t.Fatalf("%s: %v", format, err)
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	for _, format := range Formats() {
		t.Run(format, func(t *testing.T) {
			got := write(t, format, sample(), Options{Color: format == "dots", Width: 72})
			name := filepath.Join("testdata", "sample."+format)
			if *update {
				if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if got != strings.ReplaceAll(string(want), "\r\n", "\n") {
				t.Errorf("got\n%s\nwanted\n%s", got, want)
			}
		})
	}
}

func TestAuto(t *testing.T) {
	many := []Target{{Name: "a", Reports: []*specs.Report{{Spec: "s"}}}}
	for range few + 1 {
		many[0].Reports[0].Results = append(many[0].Reports[0].Results, specs.Result{Resource: "user", Subject: "root", Expect: "should exist", Status: specs.Pass})
	}
	if got, want := write(t, "auto", many, Options{}), strings.Repeat(".", few+1)+"\n31 passed, 0 failed in 0.00 s, 0 round trips\n"; got != want {
		t.Errorf("got\n%s\nwanted\n%s", got, want)
	}
	many[0].Reports[0].Results = many[0].Reports[0].Results[:few]
	if got, want := write(t, "auto", many, Options{}), write(t, "tree", many, Options{}); got != want || strings.Count(got, "ok     should exist") != few {
		t.Errorf("got\n%s", got)
	}
}

func TestUnknownFormat(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, "xml", sample(), Options{}); err == nil || !strings.Contains(err.Error(), `no report format "xml"`) || b.Len() > 0 {
		t.Errorf("%v, %s", err, b.String())
	}
}

// Every format has to say that a machine could not be asked, and none may call
// that green.
func TestNothingAsked(t *testing.T) {
	down := []Target{{Name: "db1", Err: errors.New("no route to host")}}
	for _, format := range Formats() {
		got := write(t, format, down, Options{})
		if format == "prometheus" {
			if !strings.Contains(got, "ingot_spec_target_passed{target=\"db1\"} 0\n") || !strings.Contains(got, "ingot_spec_target_asked{target=\"db1\"} 0\n") {
				t.Errorf("%s:\n%s", format, got)
			}
			continue
		}
		if !strings.Contains(got, "no route to host") || !strings.Contains(strings.ToLower(got), "error") {
			t.Errorf("%s:\n%s", format, got)
		}
	}
	if got := write(t, "json", down, Options{}); !strings.Contains(got, `"verdict": "error"`) || strings.Contains(got, `"verdict": "pass"`) {
		t.Error(got)
	}
}

func TestStream(t *testing.T) {
	var b bytes.Buffer
	s := NewStream(&b)
	targets := sample()
	var before []int
	for _, target := range targets {
		for _, rep := range target.Reports {
			for _, r := range rep.Results {
				s.Check(target.Name, rep.Spec, r)
				before = append(before, strings.Count(b.String(), "\n"))
			}
		}
	}
	if want := []int{2, 3, 4, 5, 6, 7, 8}; !slices.Equal(before, want) {
		t.Errorf("lines after each check: %v, wanted %v", before, want)
	}
	if err := s.Close(targets); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	var last lineSummary
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Type != "summary" || last.Summary.Failed != 1 || last.Summary.Errors != 2 || last.Targets != 3 || last.Verdict != specs.Fail {
		t.Errorf("%v, %+v", err, last)
	}
	if len(lines) != 1+7+3+1 {
		t.Errorf("%d lines", len(lines))
	}
	broken := NewStream(failing{})
	broken.Check("a", "s", specs.Result{})
	if err := broken.Close(nil); err == nil {
		t.Error("an error of writing is lost")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }
