package specs

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2/hclparse"
)

func TestForEach(t *testing.T) {
	s, diags := parse(t, `
user "deploy" {
  for_each = { a = 2001, b = 2002 }
  name     = "deploy-${each.key}"
  title    = "number ${each.value}"
  exist    = true
  its "uid" { eq = each.value }
}
package "x" {
  for_each     = ["nginx", "curl"]
  name         = each.key
  be_installed = { with_version = ">= ${each.value == "curl" ? 7 : 1}" }
}
file "/etc/x" {
  for_each = []
  exist    = true
}`)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	var got []string
	for _, c := range s.Checks {
		got = append(got, strings.TrimSpace(c.Subject+" "+c.key+" "+c.Title+": "+c.Expect+" "+c.skip))
	}
	want := `deploy-a deploy-a number 2001: should exist
deploy-a deploy-a number 2001: should eq 2001
deploy-b deploy-b number 2002: should exist
deploy-b deploy-b number 2002: should eq 2002
nginx nginx : should be installed with version >= 1
curl curl : should be installed with version >= 7
/etc/x  : should hold for each for_each has no elements`
	if g := strings.Join(got, "\n"); g != want {
		t.Errorf("got\n%s\nwanted\n%s", g, want)
	}
}

func TestLanguageRefuses(t *testing.T) {
	for _, c := range []struct{ src, want string }{
		{"file \"/a\" {\n exist = true\n for_each = 1\n}", "A map, or a list"},
		{"file \"/a\" {\n exist = true\n for_each = [[1]]\n}", "holds strings"},
		{"file \"/a\" {\n exist = true\n for_each = [\"a\", \"a\"]\n}", "twice"},
		{"file \"/a\" {\n exist = true\n for_each = [secret]\n}", "sensitive"},
		{"file \"/a\" {\n exist = true\n for_each = unknown\n}", "not known"},
		{"file \"/a\" {\n exist = true\n name = each.key\n}", "each"},
		{"file \"/a\" {\n exist = true\n name = secret\n}", "sensitive"},
		{"file \"/a\" {\n exist = true\n for_each = [\"b\"]\n name = each.key\n}", "begins with /"},
		{"file \"/a\" {\n exist = true\n when = os.famly == \"x\"\n}", "famly"},
		{"file \"/a\" {\n exist = true\n when = \"yes\"\n}", "A condition is expected"},
		{"file \"/a\" {\n exist = true\n when = os.family\n}", ""},
		{"file \"/a\" {\n exist = true\n when = unknown == \"x\"\n}", "not known"},
		{"file \"/a\" {\n exist = true\n skip = secret\n}", "sensitive"},
		{"only_tags = [null]\nfile \"/a\" {\n exist = true\n}", "null"},
		{"file \"/a\" {\n exist = true\n skip = true\n}", "Say in words why"},
		{"file \"/a\" {\n exist = true\n skip = \" \"\n}", "Say in words why"},
		{"file \"/a\" {\n exist = true\n waive {\n until = \"2030-01-01\"\n}\n}", "reason"},
		{"file \"/a\" {\n exist = true\n waive {\n reason = \"\"\n until = \"2030-01-01\"\n}\n}", "Say in words why"},
		{"file \"/a\" {\n exist = true\n waive {\n reason = \"x\"\n}\n}", "until"},
		{"file \"/a\" {\n exist = true\n waive {\n reason = \"x\"\n until = \"soon\"\n}\n}", "not a day"},
		{"file \"/a\" {\n exist = true\n waive {\n reason = \"x\"\n until = \"2030-01-01\"\n}\nwaive {\n reason = \"x\"\n until = \"2030-01-01\"\n}\n}", "Duplicate waive"},
	} {
		_, diags := parse(t, c.src)
		if c.want == "" {
			if diags.HasErrors() {
				t.Errorf("%s: %v", c.src, diags)
			}
			continue
		}
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

// A check that is written twice must not vanish.
func TestRepeatedMatcher(t *testing.T) {
	_, diags := hclparse.NewParser().ParseHCL([]byte("file \"/a\" {\n be_mode = 644\n be_mode = 600\n}"), "web.spec.hcl")
	if !diags.HasErrors() || !strings.Contains(diags.Error(), "be_mode") {
		t.Errorf("%v", diags)
	}
}

func TestTagsInTheSpec(t *testing.T) {
	for head, want := range map[string]string{
		"":                       "..",
		`only_tags = ["slow"]`:   "s.",
		`except_tags = ["slow"]`: ".s",
		"only_tags = [\"all\"]\nexcept_tags = [\"slow\"]": ".s",
		`only_tags = []`: "..",
	} {
		s, diags := parse(t, head+"\ntags = [\"all\"]\nfile \"/a\" {\n exist = true\n}\nfile \"/b\" {\n exist = true\n tags = [\"slow\"]\n}")
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		got := ""
		for _, c := range s.Checks {
			if c.skip != "" {
				got += "s"
			} else {
				got += "."
			}
		}
		if got != want {
			t.Errorf("%s: %s, wanted %s", head, got, want)
		}
	}
}

func TestWaiver(t *testing.T) {
	s, diags := parse(t, `
file "/a" {
  exist = true
  waive {
    reason = "comes with the next base"
    until  = "2030-06-30"
  }
}`)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	at := func(s string) time.Time {
		d, err := time.Parse(time.DateTime, s)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for _, c := range []struct {
		fact any
		now  string
		want Status
		say  string
	}{
		{file{why: "no such file"}, "2030-06-30 23:59:59", Waived, "waived until 2030-06-30: comes with the next base"},
		{file{why: "no such file"}, "2030-07-01 00:00:00", Fail, "its waiver ended on 2030-06-30: comes"},
		{file{target: &fileStat{}}, "2030-06-01 00:00:00", Pass, ""},
		{failed(answer{}, "x"), "2030-06-01 00:00:00", Error, "x ended"}, // a waiver bears what is known
	} {
		var r Result
		s.Checks[0].verdict(c.fact, &r, at(c.now))
		if r.Status != c.want || !strings.Contains(r.Message, c.say) {
			t.Errorf("%v at %s: %+v", c.fact, c.now, r)
		}
	}
}

func TestReadPlatform(t *testing.T) {
	const debian = "+PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n+VERSION_ID=\"12\"\n+VERSION_CODENAME=bookworm\n+ID=debian\n"
	for _, c := range []struct{ name, out, want string }{
		{"debian", "kernel=Linux\narch=x86_64\ninit=none\n" + debian, "amd64 bookworm debian debian none linux 12"},
		{"ubuntu", "kernel=Linux\narch=aarch64\ninit=systemd\n+ID=ubuntu\n+ID_LIKE=debian\n+VERSION_ID=\"24.04\"\n+VERSION_CODENAME=noble\n", "arm64 noble debian ubuntu systemd linux 24.04"},
		{"rocky", "kernel=Linux\narch=x86_64\ninit=systemd\n+ID=\"rocky\"\n+ID_LIKE=\"rhel centos fedora\"\n+VERSION_ID=\"9.4\"\n/etc/redhat-release:Rocky Linux release 9.4\n", "amd64  redhat rocky systemd linux 9.4"},
		{"amazon", "kernel=Linux\narch=x86_64\ninit=systemd\n+ID=\"amzn\"\n+ID_LIKE=\"centos rhel fedora\"\n+VERSION_ID=\"2\"\n", "amd64  redhat amzn systemd linux 2"},
		{"a derivative", "kernel=Linux\narch=x86_64\ninit=systemd\n+ID=steamos\n+ID_LIKE=arch\n", "amd64  arch steamos systemd linux "},
		{"tumbleweed", "kernel=Linux\narch=x86_64\ninit=systemd\n+ID=\"opensuse-tumbleweed\"\n+ID_LIKE=\"opensuse suse\"\n+VERSION_ID=\"20240101\"\n", "amd64  suse opensuse-tumbleweed systemd linux 20240101"},
		{"centos 6", "kernel=Linux\narch=i686\ninit=sysv\n/etc/redhat-release:CentOS release 6.10 (Final)\n", "386  redhat rhel sysv linux 6.10"},
		{"alpine", "kernel=Linux\narch=x86_64\ninit=openrc\n+ID=alpine\n+VERSION_ID=3.20.1\n/etc/alpine-release:3.20.1\n", "amd64  alpine alpine openrc linux 3.20.1"},
		{"freebsd", "kernel=FreeBSD\narch=amd64\ninit=none\n", "amd64  freebsd freebsd none freebsd "},
		{"nameless", "kernel=Linux\narch=x86_64\ninit=none\n", "error no /etc/os-release"},
		{"silent", "", "error exit status"},
	} {
		p, err := readPlatform(answer{out: []byte(c.out)})
		var got []string
		for _, name := range platformVariables() {
			got = append(got, p[name])
		}
		if want, bad := strings.CutPrefix(c.want, "error "); bad {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", c.name, err)
			}
		} else if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %q, %v; wanted %q", c.name, got, err, c.want)
		}
	}
}
