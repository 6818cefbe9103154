package drift

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/local"
)

func TestMain(m *testing.M) {
	sandbox.Reexec(nil)
	os.Exit(m.Run())
}

// facts gathers what has to be known in full.
func facts(t *testing.T, m machine.Machine) *Facts {
	t.Helper()
	f, err := Gather(t.Context(), m, true, false)
	if err != nil {
		t.Fatal(err)
	}
	for section, why := range f.Unknown {
		if section != SectionServices { // no init runs here
			t.Errorf("%s is not known: %s", section, why)
		}
	}
	return f
}

func do(t *testing.T, m machine.Machine, line string) {
	t.Helper()
	var out strings.Builder
	if err := m.Run(t.Context(), machine.Command{Line: line, Stdout: &out, Stderr: &out}); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out.String())
	}
}

// The host's tools are GNU's, the small system's are BusyBox's.
func bases(t *testing.T) map[string]string {
	sandboxtest.Need(t)
	all := map[string]string{"busybox": sandboxtest.Busybox(t)}
	if !sandbox.InUserNamespace() && os.Geteuid() == 0 {
		all["host"] = sandbox.HostBase
	}
	return all
}

func TestGather(t *testing.T) {
	for name, base := range bases(t) {
		t.Run(name, func(t *testing.T) {
			m := sandboxtest.Start(t, base)
			do(t, m, `mkdir -p /usr/local/deep/a/b/c/d /etc/odd && cd /etc/odd && echo x > "a b" && echo x > "$(printf 'new\nline')" && echo x > 'back\slash' && echo x > "it's" &&
				ln -s "a -> b	'c'" link && mkfifo pipe && echo secret > /etc/shadow && chown 65534:65534 "a b" && chmod 4750 "a b" && head -c 9000000 /dev/zero > big && printf '\377' > "$(printf 'bad\377')"
				ln -s "it's ''" "it's link"`)
			f := facts(t, m)
			etc := f.Files[slices.IndexFunc(f.Files, func(t Tree) bool { return t.Root == "/etc" })]
			const sumX = "73cb3858a687a8494ca3323053016282f3dad39d42cf62ca4e79dda2aac7d9ac"
			for p, want := range map[string]Entry{
				"/etc/odd/a b":        {Type: "f", Mode: "4750", UID: 65534, GID: 65534, Size: 2, Sum: sumX},
				`/etc/odd/back\slash`: {Type: "f", Mode: "644", Size: 2, Sum: sumX},
				"/etc/odd/it's":       {Type: "f", Mode: "644", Size: 2, Sum: sumX},
				"/etc/odd/it's link":  {Type: "l", Mode: "777", Target: "it's ''"},
				"/etc/odd/link":       {Type: "l", Mode: "777", Target: "a -> b\t'c'"},
				"/etc/odd/pipe":       {Type: "p", Mode: "644"},
				"/etc/odd/big":        {Type: "f", Mode: "644", Size: 9000000},
				"/etc/odd":            {Type: "d", Mode: "755"},
				`"/etc/odd/bad\xff"`:  {Type: "f", Mode: "644", Size: 1, Sum: "a8100ae6aa1940d0b663bb31cd466142ebbdbd5187131b92d93818987832eb89"},
			} {
				if got, ok := etc.Entries[p]; !ok || got != want {
					t.Errorf("%s is %+v, want %+v", p, got, want)
				}
			}
			if e := etc.Entries["/etc/shadow"]; e.Sum != "" || e.Type != "f" {
				t.Errorf("/etc/shadow is %+v: it must be there, and its content must not be looked at", e)
			}
			if etc.Odd != 1 {
				t.Errorf("%d names have newlines, want 1", etc.Odd)
			}
			local := f.Files[slices.IndexFunc(f.Files, func(t Tree) bool { return t.Root == "/usr/local" })]
			if _, deep := local.Entries["/usr/local/deep/a/b/c/d"]; deep || local.Entries["/usr/local/deep/a/b/c"].Type != "d" {
				t.Error("/usr/local was not looked at four levels deep")
			}
			if u := f.Users["root"]; u.UID != "0" || u.GID != "0" || u.Home != "/root" {
				t.Errorf("root is %+v", u)
			}
			if f.Kernel["net.ipv4.ip_forward"] == "" || f.Kernel["kernel.randomize_va_space"] == "" {
				t.Errorf("kernel parameters: %v", f.Kernel)
			}
			if name == "host" && len(f.Packages.Installed) == 0 {
				t.Error("the host has no packages")
			}
			parts, err := f.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if bytes := fmt.Sprint(parts); strings.Contains(bytes, "$6$") || strings.Contains(bytes, "$y$") {
				t.Error("the facts have a password's hash")
			}
			again, err := Decode(parts)
			if err != nil {
				t.Fatal(err)
			}
			same, err := Compare(again, f, Rules{})
			if err != nil || len(same.Changes) > 0 {
				t.Errorf("what was recorded differs from what is: %+v, %v", same, err)
			}
			other := facts(t, m)
			if same, err := Compare(f, other, Rules{}); err != nil || len(same.Changes) > 0 {
				t.Errorf("a machine that nobody touched has changed: %+v, %v", same, err)
			}
		})
	}
}

func BenchmarkGather(b *testing.B) {
	for b.Loop() {
		if _, err := Gather(context.Background(), local.Machine{}, false, false); err != nil {
			b.Fatal(err)
		}
	}
}
