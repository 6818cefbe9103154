package specs

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/zclconf/go-cty/cty"
)

// parse compiles src, in which a nested block may stand on one line.
func parse(t testing.TB, src string) (*Spec, hcl.Diagnostics) {
	t.Helper()
	if strings.Contains(src, "{ its") {
		src = strings.NewReplacer("{ its", "{\nits", "} }", "}\n}").Replace(src)
	}
	f, diags := hclparse.NewParser().ParseHCL([]byte(src), "web.spec.hcl")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	ctx := &hcl.EvalContext{Variables: map[string]cty.Value{
		"secret":  cty.StringVal("hunter2").Mark("sensitive"),
		"unknown": cty.UnknownVal(cty.String),
		"shell":   cty.StringVal("/bin/sh"),
	}}
	return Compile(f.Body, ctx, "web")
}

func TestCompile(t *testing.T) {
	s, diags := parse(t, `
title   = "The web server"
tags    = ["web"]
timeout = "20s"
sudo    = true

package "nginx" {
  title        = "the server"
  be_installed = { with_version = ">= 1.24" }
  tags         = ["release"]
  timeout      = "1m"
  retry {
    within = "30s"
  }
}
port "443" {
  be_listening = { with = "tcp", on = "0.0.0.0" }
}
file "/etc/passwd" {
  should_not {
    its "content" { match = "x" }
    be_mode = 0666
  }
  its "content" { not_match = "y" }
  be_owned_by = "root"
}
user "deploy" {
  have_login_shell = shell
}
file "/etc/secret" {
  contain = secret
  its "content" { eq = secret }
}
`)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if s.Name != "web" || s.Title != "The web server" || !s.Sudo {
		t.Errorf("%+v", s)
	}
	var got []string
	for _, c := range s.Checks {
		got = append(got, c.Resource+" "+c.Subject+": "+c.Property+": "+c.Expect)
	}
	want := `package nginx: be_installed: should be installed with version >= 1.24
port 443: be_listening: should be listening on 0.0.0.0 with tcp
file /etc/passwd: its content: should not match /x/
file /etc/passwd: be_mode: should not be mode 0666
file /etc/passwd: its content: should not match /y/
file /etc/passwd: be_owned_by: should be owned by "root"
user deploy: have_login_shell: should have login shell "/bin/sh"
file /etc/secret: contain: should contain (sensitive)
file /etc/secret: its content: should eq (sensitive)`
	if g := strings.Join(got, "\n"); g != want {
		t.Errorf("got\n%s\nwanted\n%s", g, want)
	}
	c := s.Checks[0]
	if c.Title != "the server" || strings.Join(c.Tags, " ") != "web release" || c.Timeout.String() != "1m0s" ||
		c.RetryWithin.String() != "30s" || c.RetryInterval.String() != "1s" || c.Range.Start.Line != 9 {
		t.Errorf("%+v", c)
	}
	if c := s.Checks[1]; c.Timeout.String() != "20s" || c.RetryWithin != 0 || c.Title != "" || len(c.Tags) != 1 {
		t.Errorf("%+v", c)
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{``, "checks nothing"},
		{`packge "nginx" {}`, `Did you mean "package"?`},
		{`kernel "x" {}`, "Known here: "},
		{`timout = "1s"`, `Did you mean "timeout"?`},
		{`package "nginx" {}`, "checks nothing"},
		{`package "nginx" { be_instaled = true }`, `Did you mean "be_installed"?`},
		{`package "nginx" { frobnicate = true }`, "Known here: be_installed, for_each, name, skip, tags, timeout, title, when."},
		{`package { be_installed = true }`, "Missing subject"},
		{`package "a" "b" { be_installed = true }`, "label"},
		{`package "nginx" { be_installed = false }`, "should_not"},
		{`package "nginx" { be_installed = "yes" }`, "true or an object with by, with_version"},
		{`package "nginx" { be_installed = null }`, "null"},
		{`package "nginx" { be_installed = { with_versio = "1" } }`, `did you mean "with_version"?`},
		{`package "nginx" { be_installed = { with_version = "=> 1" } }`, "not a version constraint"},
		{`package "nginx" { be_installed = { with_version = null } }`, "a string or a number"},
		{`package "nginx" { be_installed = { with_version = unknown } }`, "not known"},
		{`package "-e" { be_installed = true }`, "not a name"},
		{`service "nginx" { be_running = { under = "upstart" } }`, "under is one of systemd, openrc, init, supervisor, runit"},
		{`port "0" { be_listening = true }`, "1 to 65535"},
		{`port "65536" { be_listening = true }`, "1 to 65535"},
		{`port "80" { be_listening = { with = "sctp" } }`, "tcp6"},
		{`port "80" { be_listening = { on = "localhost" } }`, "localhost"},
		{`file "etc/passwd" { exist = true }`, "begins with /"},
		{`file "/a\nb" { exist = true }`, "control characters"},
		{`file "/a" { be_mode = "rw" }`, "is not a mode"},
		{`file "/a" { be_mode = "99999" }`, "is not a mode"},
		{`file "/a" { its "contnt" { eq = "x" } }`, `did you mean "content"?`},
		{`file "/a" { its "nonsense" { eq = "x" } }`, "Known: content, gid"},
		{`service "a" { its "x" { eq = 1 } }`, `has no attribute "x"`},
		{`file "/a" { its "size" { match = "1" } }`, `"match" is not expected`},
		{`file "/a" { its "size" { eq = "big" } }`, "not a number"},
		{`file "/a" { its "size" { be_in = [] } }`, "a list of values"},
		{`file "/a" { its "size" { be_in = 1 } }`, "a list of values"},
		{`file "/a" { its "content" { match = "(" } }`, "regular expression"},
		{`file "/a" { its "content" { match = ["a"] } }`, "a string or a number"},
		{"file \"/a\" {\n its \"content\" {}\n}", "checks nothing"},
		{"file \"/a\" {\n should_not {}\n}", "checks nothing"},
		{"file \"/a\" {\n exist = true\n retry {}\n}", "within"},
		{"file \"/a\" {\n exist = true\n retry {\n within = \"soon\"\n }\n}", "not a duration"},
		{"file \"/a\" {\n exist = true\n retry {\n within = \"1m\"\n }\n retry {\n within = \"1m\"\n }\n}", "Duplicate retry"},
		{"file \"/a\" {\n exist = true\n timeout = \"10ms\"\n}", "not a duration"},
		{"file \"/a\" {\n exist = true\n tags = [null]\n}", "null"},
		{"file \"/a\" {\n exist = true\n title = undefined\n}", "undefined"},
		{`user "0" { exist = true }`, "ids are checked"},
		{`user "-x" { exist = true }`, "not an account"},
		{`user "" { exist = true }`, "not an account"},
		{`process "/bin/x" { be_running = true }`, "not a name"},
		{`command " " { its "stdout" { eq = "" } }`, "a line for sh"},
		{`package "p" { its "version" { eq = "1 2" } }`, "not a version"},
	} {
		_, diags := parse(t, c.src)
		if !diags.HasErrors() || !strings.Contains(diags.Error()+diags.Errs()[0].Error(), c.want) {
			t.Errorf("%s\ngave %v\nwanted %s", c.src, diags, c.want)
		}
		for _, d := range diags {
			if d.Subject == nil || d.Subject.Filename != "web.spec.hcl" {
				t.Errorf("%s: without a place: %v", c.src, d)
			}
		}
	}
}

func TestSensitiveValuesStayHidden(t *testing.T) {
	for _, src := range []string{
		`file "/a" { its "content" { match = "(${secret}" } }`,
		`file "/a" { be_mode = secret }`,
	} {
		_, diags := parse(t, src)
		if !diags.HasErrors() || strings.Contains(diags.Error(), "hunter2") {
			t.Errorf("%s: %v", src, diags)
		}
	}
	s, diags := parse(t, `file "/a" { contain = secret }`)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	for _, fact := range []any{"line one\nhunter2\n", "hunter3", missing("hunter2"), failed(answer{errOut: []byte("hunter2")}, "x")} {
		var r Result
		s.Checks[0].verdict(fact, &r, time.Now())
		if strings.Contains(r.Actual+r.Message, "hunter") {
			t.Errorf("%+v", r)
		}
	}
}

func TestCompileJSON(t *testing.T) {
	f, diags := hclparse.NewParser().ParseJSON([]byte(`{"package": {"nginx": {"be_installed": true}}, "file": {"/a": {"its": {"mode": {"eq": "644"}}}}}`), "web.spec.json")
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	s, diags := Compile(f.Body, nil, "web")
	if diags.HasErrors() || len(s.Checks) != 2 {
		t.Errorf("%v, %+v", diags, s)
	}
}
