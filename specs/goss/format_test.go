package goss

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func testRows() []Row {
	row := func(typ, id, property string, actual, matcher any) Row {
		m, err := Compile(matcher, false)
		if err != nil {
			panic(err)
		}
		r := Row{Type: typ, ID: id, Property: property, Outcome: m.Match(actual), Start: time.Unix(0, 0).UTC(), Duration: 1500 * time.Microsecond}
		if !r.Outcome.OK {
			r.Result = Fail
		}
		return r
	}
	mode := row("File", "/a", "mode", "0755", "0600")
	mode.Title, mode.Meta = "t & <x>", map[string]any{"a": 1}
	broken := Row{Type: "KernelParam", ID: "x", Property: "value", Result: Fail, Outcome: Outcome{Err: errors.New("no such \x1b parameter")}}
	return []Row{
		row("User", "root", "uid", 0, 0), mode, {Type: "File", ID: "/b", Property: "mode", Result: Skip}, broken,
		row("Matching", "n", "matches", 128, "12"), row("User", "root", "groups", []string{"root"}, []any{"x", "root"}),
	}
}

// The formats are those of goss, as tools that read them expect.
func TestFormats(t *testing.T) {
	for _, c := range []struct {
		format, options string
		status          int
		want            string
	}{
		{"rspecish", "", 1, `.FSFFF

Failures/Skipped:

Title: t & <x>
Meta:
    a: 1
File: /a: mode:
Expected
    "0755"
to equal
    "0600"
diff
    --- test
    +++ actual
    @@ -1 +1 @@
    -0600
    +0755

File: /b: mode: skipped

KernelParam: x: value:
Error
    no such \x1b parameter

Matching: n: matches:
Expected
    "128"
to equal
    "12"
diff
    --- test
    +++ actual
    @@ -1 +1 @@
    -12
    +128
the transform chain was
    [{"to-string":{}}]
the raw value was
    128

User: root: groups:
Expected
    ["root"]
to contain elements matching
    ["x","root"]
the missing elements were
    ["x"]

Total Duration: 0.250s
Count: 6, Failed: 4, Skipped: 1
`},
		{"tap", "sort exclude_raw", 1, `1..6
not ok 1 - File: /a: mode: Expected "0755" to equal "0600"
ok 2 - # SKIP File: /b: mode: skipped
not ok 3 - KernelParam: x: value: Error no such \x1b parameter
not ok 4 - Matching: n: matches: Expected "128" to equal "12" the transform chain was [{"to-string":{}}]
ok 5 - User: root: uid: matches expectation: 0
not ok 6 - User: root: groups: Expected ["root"] to contain elements matching ["x","root"] the missing elements were ["x"]
`},
		{"nagios", "verbose perfdata", 2, `GOSS CRITICAL - Count: 6, Failed: 4, Skipped: 1, Duration: 0.250s|total=6 failed=4 skipped=1 duration=0.250s
Fail 1 - File: /a: mode: Expected "0755" to equal "0600"
Fail 2 - KernelParam: x: value: Error no such \x1b parameter
Fail 3 - Matching: n: matches: Expected "128" to equal "12" the transform chain was [{"to-string":{}}] the raw value was 128
Fail 4 - User: root: groups: Expected ["root"] to contain elements matching ["x","root"] the missing elements were ["x"]
`},
		{"silent", "", 1, ""},
	} {
		var b bytes.Buffer
		status, err := Write(&b, c.format, testRows(), WriteOptions{Options: strings.Fields(c.options), Duration: 250 * time.Millisecond})
		if err != nil || status != c.status || b.String() != c.want {
			t.Errorf("%s %s: %d %v\n%s", c.format, c.options, status, err, b.String())
		}
	}
}

// What programs read can be read, and has goss' names.
func TestFormatsForPrograms(t *testing.T) {
	write := func(format string, options ...string) string {
		var b bytes.Buffer
		if _, err := Write(&b, format, testRows(), WriteOptions{Options: options, Duration: time.Second, Color: true}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for _, out := range []string{write("json"), write("json", "pretty"), write("json_oneline"), write("structured")} {
		var doc struct {
			Results []map[string]any `json:"results"`
			Summary map[string]any   `json:"summary"`
		}
		if err := json.Unmarshal([]byte(out), &doc); err != nil {
			t.Fatal(err)
		}
		if len(doc.Results) != 6 || doc.Summary["failed-count"] != 4.0 || doc.Summary["test-count"] != 6.0 || doc.Summary["total-duration"] != 1e9 {
			t.Errorf("%s", out)
		}
		for _, key := range []string{"duration", "end-time", "err", "matcher-result", "meta", "property", "resource-id", "resource-type", "result", "skipped", "start-time", "successful", "summary-line", "summary-line-compact", "title"} {
			if _, ok := doc.Results[0][key]; !ok {
				t.Errorf("a result has no %s", key)
			}
		}
		m, _ := doc.Results[4]["matcher-result"].(map[string]any)
		if m["actual"] != "128" || m["untransformed-value"] != 128.0 || m["message"] != "to equal" || doc.Results[2]["skipped"] != true || doc.Results[2]["successful"] != true {
			t.Errorf("%v", doc.Results[4])
		}
	}
	d := xml.NewDecoder(strings.NewReader(write("junit")))
	cases := 0
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "testcase" {
			cases++
		}
	}
	if cases != 6 {
		t.Errorf("%d test cases", cases)
	}
	for _, want := range []string{`goss_tests_outcomes_total{outcome="fail",type="user"} 1`, `goss_tests_run_outcomes_total{outcome="fail"} 1`, `goss_tests_run_duration_milliseconds{outcome="fail"} 1000`} {
		if !strings.Contains(write("prometheus"), want+"\n") {
			t.Errorf("prometheus has no %s in\n%s", want, write("prometheus"))
		}
	}
	if !strings.Contains(write("prometheus", "verbose"), `goss_tests_outcomes_total{outcome="pass",resource_id="root",type="user"} 1`) {
		t.Errorf("%s", write("prometheus", "verbose"))
	}
	if !strings.Contains(write("documentation"), "\x1b[32mUser: root: uid: matches expectation: 0\x1b[0m\n") {
		t.Errorf("%q", write("documentation"))
	}
	for _, bad := range [][2]string{{"jason", ""}, {"json", "prety"}} {
		if _, err := Write(io.Discard, bad[0], nil, WriteOptions{Options: strings.Fields(bad[1])}); err == nil || !strings.Contains(err.Error(), "did you mean") {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
