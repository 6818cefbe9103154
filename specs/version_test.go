package specs

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// need gives the path of a tool, and skips the test where it is missing,
// except in CI, which has to have it.
func need(t testing.TB, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("CI lacks %s: %v", tool, err)
		}
		t.Skipf("%s is not installed", tool)
	}
	return path
}

// Each line reads "older < newer" or "one = other".
var orders = map[string]string{
	"dpkg": `
1.0 < 1.1
1.9 < 1.10
1.0~rc1 < 1.0
1.0~~ < 1.0~
1.0~rc1 < 1.0~rc2
1.0 < 1.0+b1
1.0a < 1.0b
1.0a < 1.0+
1.0 < 1.0a
001 = 1
1.2.0 < 1.2.00a
9.2p1 < 9.10p1
1.22.1 < 1.24
18446744073709551616 < 18446744073709551617
`,
	"rpm": `
1.0 < 1.1
1.9 < 1.10
1.0~rc1 < 1.0
1.0 < 1.0^git1
1.0^git1 < 1.0.1
1.0^ < 1.0.1
1.0~rc1^git1 < 1.0
1.0~rc1 < 1.0~rc1^git1
1.0 = 1_0
1.0. = 1.0
1.0 < 1.0a
a < 1
2.0.1 < 2.0.1a
5.5p1 < 5.5p10
10xyz < 10.1xyz
xyz.4 < 8
1.05 = 1.5
`,
	"pacman": `
1.0 < 1.1
1.0a < 1.0
1.0a < 1.0b
1.0b < 1.0beta
1.0beta < 1.0p
1.0p < 1.0pre
1.0rc < 1.0
1.0 < 1.0.a
1.0.a < 1.0.1
1.5 < 1.5.1
1.0 < 1.0.
1.0 < 1..0
`,
	"apk": `
1.0 < 1.1
1.9 < 1.10
1.2_alpha < 1.2_beta
1.2_beta < 1.2_pre
1.2_pre < 1.2_rc
1.2_rc1 < 1.2_rc2
1.2_rc < 1.2
1.2 < 1.2_git20200101
1.2 < 1.2_p1
1.2_p1 < 1.2_p2
1.2_p2 < 1.2a
1.2a < 1.2b
1.2a < 1.2.1
1.2 < 1.2.0
1.02 < 1.1
1.001 < 1.01
0.1.0_alpha < 0.1.0_alpha1
1.2_rc1_p2 < 1.2
20230101 < 20240101
`,
}

func TestOrders(t *testing.T) {
	for manager, table := range orders {
		s, err := schemeOf(manager)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(strings.TrimSpace(table), "\n") {
			f := strings.Fields(line)
			want := map[string]int{"<": -1, "=": 0}[f[1]]
			if got := s.compare(f[0], f[2]); got != want {
				t.Errorf("%s: %s: got %d", manager, line, got)
			}
			if got := s.compare(f[2], f[0]); got != -want {
				t.Errorf("%s: %s, swapped: got %d", manager, line, got)
			}
		}
	}
	if _, err := schemeOf("brew"); err == nil {
		t.Error("an unknown package manager has an order")
	}
}

func TestConstraints(t *testing.T) {
	for _, c := range []struct {
		manager, installed, constraint string
		holds, fails                   bool
	}{
		{"dpkg", "1.22.1-9+deb12u2", ">= 1.24", false, false},
		{"dpkg", "1.22.1-9+deb12u2", ">= 1.22, < 1.23", true, false},
		{"dpkg", "1.22.1-9+deb12u2", "1.22.1", true, false},
		{"dpkg", "1.22.1-9+deb12u2", "= 1.22.1-9+deb12u2", true, false},
		{"dpkg", "1.22.1-9+deb12u2", "= 1.22.1-8", false, false},
		{"dpkg", "1.22.1-9", "= 1.22", false, false},
		{"dpkg", "1:9.2p1-2", ">= 9.2", true, false},
		{"dpkg", "1:9.2p1-2", ">= 2:1.0", false, false},
		{"dpkg", "9.2p1-2", "< 1:1.0", true, false},
		{"dpkg", "1.0", "!= 1.0", false, false},
		{"dpkg", "1.0", "> 0.9", true, false},
		{"dpkg", "1.0", "<= 1.0", true, false},
		{"rpm", "1.20.1-14.el9", "== 1.20.1", true, false},
		{"rpm", "2:1.20.1-14.el9", ">= 2:1.20.1-15", false, false},
		{"apk", "1.24.0-r15", "1.24.0", true, false},
		{"apk", "1.24.0-r15", ">= 1.24.0-r16", false, false},
		{"apk", "1.24.0-r15", ">= 1:1.24", false, true},
		{"dpkg", "1.0 evil", ">= 1.0", false, true},
	} {
		s, err := schemeOf(c.manager)
		if err != nil {
			t.Fatal(err)
		}
		k, err := parseConstraint(c.constraint)
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.holds(s, c.installed)
		if got != c.holds || (err != nil) != c.fails {
			t.Errorf("%s %s %s: got %v, %v", c.manager, c.installed, c.constraint, got, err)
		}
	}
	for _, bad := range []string{"", ">=", ">= 1.0,", "=> 1.0", "1.0 2.0", "~> 1.0", ">= $(id)"} {
		if c, err := parseConstraint(bad); err == nil {
			t.Errorf("%q is accepted: %v", bad, c)
		}
	}
}

// randomVersions gives pairs that are close to one another, where orders differ.
func randomVersions(n int, parts []string) [][2]string {
	r := rand.New(rand.NewPCG(1, 2))
	word := func() string {
		s := "1"
		for range r.IntN(4) {
			s += parts[r.IntN(len(parts))]
		}
		return s
	}
	out := make([][2]string, n)
	for i := range out {
		out[i] = [2]string{word(), word()}
	}
	return out
}

var versionParts = []string{".", "0", "1", "09", "10", "a", "b", "rc", "~", "+", "Z", ".1"}

func TestDpkgAgrees(t *testing.T) {
	dpkg := need(t, "dpkg")
	for _, p := range randomVersions(150, versionParts) {
		op := map[int]string{-1: "lt", 0: "eq", 1: "gt"}[compareDpkg(p[0], p[1])]
		if err := exec.Command(dpkg, "--compare-versions", p[0], op, p[1]).Run(); err != nil {
			t.Errorf("dpkg does not think that %s %s %s", p[0], op, p[1])
		}
	}
}

func TestRPMAgrees(t *testing.T) {
	rpm := need(t, "rpm")
	pairs := randomVersions(300, append([]string{"^", "^git"}, versionParts...))
	var script strings.Builder
	for _, p := range pairs {
		fmt.Fprintf(&script, "print(rpm.vercmp(%q, %q)) print(' ') ", p[0], p[1])
	}
	out, err := exec.Command(rpm, "--eval", "%{lua: "+script.String()+"}").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(string(out))
	if len(got) != len(pairs) {
		t.Fatalf("rpm gave %d answers to %d questions", len(got), len(pairs))
	}
	for i, p := range pairs {
		if want := fmt.Sprint(compareRPM(p[0], p[1])); got[i] != want {
			t.Errorf("%s and %s: %s, rpm says %s", p[0], p[1], want, got[i])
		}
	}
}

func TestPacmanAgrees(t *testing.T) {
	vercmp := need(t, "vercmp")
	for _, p := range randomVersions(150, versionParts) {
		out, err := exec.Command(vercmp, p[0], p[1]).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.TrimSpace(string(out)), fmt.Sprint(comparePacman(p[0], p[1])); got != want {
			t.Errorf("%s and %s: %s, vercmp says %s", p[0], p[1], want, got)
		}
	}
}

func FuzzVersions(f *testing.F) {
	f.Add("1.0~rc1-1", "1:1.0^git")
	f.Add("1.2_rc1_p2-r0", "1.2a")
	f.Fuzz(func(t *testing.T, a, b string) {
		for manager := range orders {
			s, _ := schemeOf(manager)
			ab, err := s.order(a, b)
			if err != nil {
				continue
			}
			// Only whole versions have a mirrored order.
			ea, _, ra := s.cut(a)
			eb, _, rb := s.cut(b)
			if (ea == "") != (eb == "") || (ra == "") != (rb == "") {
				continue
			}
			if ba, err := s.order(b, a); err != nil || ab != -ba {
				t.Errorf("%s: %q and %q: %d, but swapped %d (%v)", manager, a, b, ab, ba, err)
			}
		}
	})
}
