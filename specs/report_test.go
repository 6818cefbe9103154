package specs

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func sample() *Report {
	return &Report{Schema: Schema, Spec: "web", Seconds: 0.314, RoundTrips: 2, Results: []Result{
		{Resource: "file", Subject: "/etc/nginx.conf", Title: "hides its version", Property: "its content", Expect: "should not match /on/", Actual: "line 31: on;", Status: Fail, File: "web.spec.hcl", Line: 38, Tries: 3},
		{Resource: "service", Subject: "nginx", Property: "be_running", Expect: "should be running", Status: Error, Message: "no service manager runs here", File: "web.spec.hcl", Line: 17, Tries: 1},
		{Resource: "package", Subject: "nginx", Property: "be_installed", Expect: "should be installed", Actual: "installed: 1.24", Status: Pass, File: "web.spec.hcl", Line: 7, Tries: 1},
		{Resource: "command", Subject: "echo \x1b[31m\nx", Property: "its stdout", Expect: "should eq \"\"", Status: Skip, Message: "no tag", File: "web.spec.hcl", Line: 9},
	}}
}

func TestWriteText(t *testing.T) {
	var b strings.Builder
	if err := sample().WriteText(&b, false); err != nil {
		t.Fatal(err)
	}
	want := `FAIL  file "/etc/nginx.conf"  its content  should not match /on/   (3 tries)     web.spec.hcl:38
      hides its version
      line 31: on;
ERROR service "nginx"  should be running     web.spec.hcl:17
      no service manager runs here
web: 1 passed, 1 failed, 1 error, 1 skipped in 0.31 s, 2 round trips
`
	if b.String() != want {
		t.Errorf("got\n%s\nwanted\n%s", b.String(), want)
	}
	b.Reset()
	if err := sample().WriteText(&b, true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"PASS  package \"nginx\"  should be installed     web.spec.hcl:7\n", `SKIP  command "echo \x1b[31m\nx"  its stdout`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s\nlacks %s", b.String(), want)
		}
	}
	b.Reset()
	if err := (&Report{Spec: "web", RoundTrips: 1}).WriteText(&b, false); err != nil || b.String() != "web: 0 passed, 0 failed in 0.00 s, 1 round trip\n" {
		t.Errorf("%v, %s", err, b.String())
	}
}

func TestJSON(t *testing.T) {
	data, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"schema":1`, `"spec":"web"`, `"round_trips":2`, `"status":"fail"`, `"file":"web.spec.hcl","line":38`, `"actual":"line 31: on;"`} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("%s\nlacks %s", data, want)
		}
	}
}

func TestPassed(t *testing.T) {
	for status, want := range map[Status]bool{Pass: true, Skip: true, Waived: true, Fail: false, Error: false, "": false} {
		r := Report{Results: []Result{{Status: Pass}, {Status: status}}}
		if r.Passed() != want {
			t.Errorf("%q: %v", status, r.Passed())
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain ü":              "plain ü",
		"a\x1b[2Jb\r\n\tc\x00": `a\x1b[2Jb\r\n\tc\x00`,
		"\xff\u202e\u200b":     `\xff\u202e\u200b`,
		"\uFFFD":               "\uFFFD",
	} {
		if got := Clean(in); got != want {
			t.Errorf("%q: got %q, wanted %q", in, got, want)
		}
	}
	if got := Clean(strings.Repeat("ü", 300)); !utf8.ValidString(got) || !strings.HasSuffix(got, "ü… (200 bytes more)") {
		t.Errorf("%q", got)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("a\x1b]0;x\x07\u2028\xf0\x9f")
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return r != ' ' && !unicode.IsPrint(r) }) || len(got) > 4*maxText+100 {
			t.Errorf("%q gives %q", s, got)
		}
	})
}
