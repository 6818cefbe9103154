package sshmachine

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/ingotbuild/ingot/machine"
)

// about is what the machine has said of itself.
type about struct {
	machine.Platform
	tar    bool
	gnuTar bool
	// stripes says that a stream can be dealt out over several channels there.
	stripes bool
}

// probeScript prints one word=value a line.
const probeScript = `echo "os=$(uname -s)"
echo "arch=$(uname -m)"
command -v tar >/dev/null 2>&1 && case $(tar --version 2>/dev/null) in *GNU*) echo tar=gnu;; *) echo tar=yes;; esac
command -v mkfifo >/dev/null 2>&1 && [ "$(printf abcd | { dd bs=2 count=1 iflag=fullblock 2>/dev/null >/dev/null; cat; })" = cd ] && echo stripes=yes
[ -r /etc/os-release ] && (. /etc/os-release && echo "family=$ID")
true`

// probe asks the machine what it is, in one command.
func (m *Machine) probe(ctx context.Context) error {
	var out bytes.Buffer
	var said tail
	if err := m.do(ctx, job{text: probeScript, stdout: &limited{&out, 64 << 10}, stderr: &said}); err != nil {
		return fmt.Errorf("%w%s", err, said.after())
	}
	m.about = readAbout(out.String())
	return nil
}

func readAbout(text string) about {
	a := about{Platform: machine.Platform{Shell: "sh"}}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), "=")
		switch key {
		case "os":
			a.OS = word(strings.ToLower(value))
			if strings.HasPrefix(a.OS, "mingw") || strings.HasPrefix(a.OS, "msys") || strings.HasPrefix(a.OS, "cygwin") {
				a.OS = "windows"
			}
		case "arch":
			a.Arch = goArch(word(value))
		case "family":
			a.Family = word(value)
		case "stripes":
			a.stripes = value == "yes"
		case "tar":
			a.tar, a.gnuTar = value != "", value == "gnu"
		}
	}
	return a
}

// word refuses what is no plain word: it comes from the machine.
func word(s string) string {
	for _, c := range s {
		if c != '_' && c != '-' && c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return ""
		}
	}
	if len(s) > 64 {
		return ""
	}
	return s
}

func goArch(uname string) string {
	switch uname {
	case "x86_64", "amd64":
		return "amd64"
	case "aarch64", "arm64":
		return "arm64"
	case "i386", "i486", "i586", "i686":
		return "386"
	case "armv5l", "armv6l", "armv7l", "armv8l":
		return "arm"
	case "loongarch64":
		return "loong64"
	}
	return uname // ppc64le, s390x, riscv64 are called the same
}

// limited takes n bytes and forgets the rest.
type limited struct {
	b *bytes.Buffer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	take := min(len(p), l.n)
	l.b.Write(p[:take])
	l.n -= take
	return len(p), nil
}
