//go:build unix

package specs

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/ingotbuild/ingot/machine"
)

// written is the text of a spec's body that says what was described.
func written(all []Description) []byte {
	f := hclwrite.NewEmptyFile()
	for _, d := range all {
		for _, b := range d.Blocks() {
			f.Body().AppendBlock(b)
		}
	}
	return f.Bytes()
}

// firstFields are the first fields of a file's lines.
func firstFields(t *testing.T, file, sep string) (out []string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		name, _, _ := strings.Cut(s.Text(), sep)
		out = append(out, name)
	}
	return out
}

// TestDescribeHolds: what is written of a machine passes on it at once, for
// whatever there is on this host, and for what there is not.
func TestDescribeHolds(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{
		"plain", "a b", `q"uote`, `back\slash`, "it's", "${dollar}", "$${twice}", "%{percent}", "$HOME", "-dash", "*", "äöü", "日本", "~", "{", "a#b", "//", "`x`", "%%{", "$", "end$", "[0]",
	} {
		if strings.Contains(name, "/") {
			continue
		}
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, []os.FileMode{0o644, 0o400, 0o777 | os.ModeSticky, 0}[i%4]); err != nil {
			t.Fatal(err)
		}
		if i > 7 {
			continue
		}
		if err := os.Symlink(name, p+".link"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	var sockets []net.Listener
	for _, on := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"} {
		l, err := net.Listen("tcp", on)
		if err != nil {
			continue // without IPv6
		}
		defer l.Close()
		sockets = append(sockets, l)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()

	first := "no-first-process" // the one that is there as long as the host is
	if comm, err := os.ReadFile("/proc/1/comm"); err == nil {
		first = strings.TrimSpace(string(comm))
	}
	subjects := map[string][]string{
		"user":                   append(firstFields(t, "/etc/passwd", ":"), "no-such-user"),
		"group":                  append(firstFields(t, "/etc/group", ":"), "no-such-group"),
		"kernel_module":          append(firstFields(t, "/proc/modules", " "), "no_such_module"),
		"linux_kernel_parameter": {"kernel.ostype", "vm.swappiness", "net.ipv4.ip_forward", "kernel.no_such"},
		"process":                {first, "no-such-process"},
		"host":                   {"localhost", "no-such-host.invalid"},
		"package":                {"no-such-package"},
		"service":                {"no-such-service"},
		"file":                   {"/", "/no-such/file", "/etc/passwd/no-such", "/dev/null", "/etc/passwd"},
		"port":                   {"1", udp.LocalAddr().String()[strings.LastIndexByte(udp.LocalAddr().String(), ':')+1:]},
		"command": {
			"true", "exit 3", "echo hello", "printf 'a\\tb\\n\\nc'", "echo ${HOME} '%{x}' \"$$\" | wc -l", "echo '${x} %{y} \"q\" \\\\'", "echo to stderr >&2; exit 1",
			"no-such-command", "printf '\\033[31m'", "echo 'two\nlines'", "echo äöü",
		},
		"bridge": {"no-such-br"},
	}
	for _, l := range sockets {
		_, port, _ := net.SplitHostPort(l.Addr().String())
		subjects["port"] = append(subjects["port"], port)
	}
	if devices, err := net.Interfaces(); err == nil {
		subjects["interface"] = []string{"nosuchdev0"}
		for _, d := range devices {
			subjects["interface"] = append(subjects["interface"], d.Name)
		}
	}
	if out, err := exec.Command("dpkg-query", "-W", "-f", "${Package}\n").Output(); err == nil {
		subjects["package"] = append(subjects["package"], strings.Fields(string(out))...)
	}
	if out, err := exec.Command("systemctl", "list-unit-files", "--no-legend", "--no-pager").Output(); err == nil {
		for _, l := range lines(out) {
			if f := strings.Fields(l); len(f) > 0 && !strings.HasSuffix(f[0], "@.service") {
				subjects["service"] = append(subjects["service"], f[0])
			}
		}
	}
	for _, root := range []string{dir, "/etc", "/usr/bin", "/dev", "/var/lib", "/run"} {
		err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
			if strings.HasPrefix(p, "/dev/pts/") || strings.HasPrefix(p, "/dev/fd") || strings.HasPrefix(p, "/run/") {
				return nil // they come and go
			}
			if err == nil && (root == dir || rand.IntN(20) == 0) {
				subjects["file"] = append(subjects["file"], p)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	const most = 10 // of a kind: each symbolic link costs a process
	var asks []Ask
	for _, r := range Describable() {
		if list := subjects[r]; r != "file" && len(list) > most {
			rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			subjects[r] = list[:most]
		} else if len(list) > 4*most {
			subjects[r] = list[:4*most] // those of dir are first
		}
		for _, s := range subjects[r] {
			if a := (Ask{r, s}); a.Check() == nil {
				asks = append(asks, a)
			}
		}
	}
	m := &local{}
	all, err := Describe(t.Context(), m, asks, false)
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range all {
		if d.Resource != asks[i].Resource || d.Subject != asks[i].Subject {
			t.Fatalf("%v is described as %s %q", asks[i], d.Resource, d.Subject)
		}
		for _, n := range d.Notes {
			// A unit's state can be unknown here, and text that is none cannot be written.
			if strings.Contains(n, "left out") && !strings.Contains(d.Subject, "$$") {
				t.Errorf("%s %q: %s", d.Resource, d.Subject, n)
			}
		}
		if len(d.Notes) == 0 && len(d.Blocks()) == 0 && d.Resource != "linux_kernel_parameter" {
			t.Errorf("nothing is written of %s %q", d.Resource, d.Subject)
		}
		if strings.Contains(strings.ToLower(d.Subject), "no-such") && d.Missing == "" && d.Resource != "command" {
			t.Errorf("%s %q is found", d.Resource, d.Subject)
		}
	}
	text := written(all)
	f, diags := hclsyntax.ParseConfig(text, "written", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatalf("%v in\n%s", diags, text)
	}
	s, diags := Compile(f.Body, nil, "written")
	if diags.HasErrors() {
		t.Fatalf("%v in\n%s", diags, text)
	}
	patient(s)
	r, err := s.Run(context.Background(), m, RunOptions{MaxOutput: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range r.Results {
		if x.Status != Pass {
			t.Errorf("%s: %s %q %s %s: %s %s", x.Status, x.Resource, x.Subject, x.Property, x.Expect, x.Actual, x.Message)
		}
	}
	t.Logf("%d subjects, %d checks", len(asks), len(r.Results))
}

// TestDescribe is what is written, word by word.
func TestDescribe(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("f", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	count := filepath.Join(dir, "count")
	all, err := Describe(t.Context(), &local{}, []Ask{
		{"file", filepath.Join(dir, "l")}, {"file", filepath.Join(dir, "none")}, {"command", "echo a; echo b >&2; exit 2"}, {"group", "no-such-group"},
		{"command", "echo x >>" + count + "; wc -l <" + count},
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	owner := func(name string) string {
		out, err := exec.Command("id", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	want := fmt.Sprintf(`file "%[1]s/l" {
  be_file         = true
  be_symlink      = true
  be_linked_to    = "f"
  be_mode         = "0600"
  be_owned_by     = "%[2]s"
  be_grouped_into = "%[3]s"
}
file "%[1]s/none" {
  should_not {
    exist = true
  }
}
command "echo a; echo b >&2; exit 2" {
  its "exit_status" {
    eq = 2
  }
  its "stderr" {
    eq = "b"
  }
  its "stdout" {
    eq = "a"
  }
}
group "no-such-group" {
  should_not {
    exist = true
  }
}
command "echo x >>%[4]s; wc -l <%[4]s" {
  its "exit_status" {
    eq = 0
  }
}
`, dir, owner("-un"), owner("-gn"), count)
	if have := string(hclwrite.Format(written(all))); have != want {
		t.Errorf("have\n%s\nwant\n%s", have, want)
	}
	if n := all[4].Notes; len(n) != 1 || !strings.Contains(n[0], "its stdout is left out") {
		t.Errorf("of an output that changes: %q", n)
	}
}

func TestAskCheck(t *testing.T) {
	for ask, want := range map[Ask]string{
		{"pakage", "x"}:                 `mean "package"`,
		{"cron", ""}:                    "nothing can be written",
		{"selinux", "x"}:                "has no name",
		{"file", ""}:                    "which file?",
		{"file", "etc"}:                 "begins with /",
		{"file", "/a\nb"}:               "control",
		{"file", "/a\xff"}:              "normal form",
		{"file", "/a\u0308"}:            "normal form",
		{"user", "0"}:                   "not an account",
		{"user", "-x"}:                  "not an account",
		{"port", "http"}:                "from 1 to 65535",
		{"service", "a b"}:              "could know",
		{"command", " "}:                "a line for sh",
		{"linux_kernel_parameter", "-"}: "could know",
	} {
		if err := ask.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", ask, err)
		}
	}
	known := Describable()
	for _, r := range resources() {
		if slices.Contains(known, r.name) {
			d := &describer{r: r, subject: "x"}
			describers()[r.name](d) // names only what there is
			for _, a := range d.all {
				if a.kind == nil || a.read == nil {
					t.Errorf("%s: %s is nothing that can be asked", r.name, a.name)
				}
			}
		}
	}
}

// TestDescribeHostile: what a machine says ends neither in a panic nor in text
// that is something else than a spec of these subjects.
func TestDescribeHostile(t *testing.T) {
	for i, say := range []string{
		"", "\x00\xff", `x:0:0:${file("/etc/passwd")}:/:/"}\nfile "/x" {:`, strings.Repeat("a:", 1<<16), "%{ for x in y }",
	} {
		m := &local{edit: func(string) string { return machine.Quote("printf", "%s", say) }}
		all, err := Describe(t.Context(), m, []Ask{{"user", "root"}, {"file", "/etc"}, {"package", "x"}, {"command", "true"}, {"port", "80"}}, false)
		if err == nil {
			t.Errorf("%d: an answer that is none gives %s", i, written(all))
		}
	}
}
