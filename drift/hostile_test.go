package drift

import (
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/specs"
)

// What is out of order is an error, and never no drift.
func TestForgedAnswers(t *testing.T) {
	absent := "tree /usr/lib/systemd/system\nabsent\ntree /lib/systemd/system\nabsent\ntree /usr/local\nabsent\ntree /var/spool/cron\nabsent\n"
	etc := "tree /etc\nd 755 0 0 1 /etc\t\n"
	sum := strings.Repeat("a", 64)
	if _, err := readFiles(specs.Reply{Out: []byte(etc + "f 644 0 0 1 /etc/x\t\nsum " + sum + "  /etc/x\ndone\n" + absent)}); err != nil {
		t.Errorf("a good answer: %v", err)
	}
	for name, out := range map[string]string{
		"nothing":               "",
		"cut short":             etc + "done\n",
		"no end of a tree":      etc + absent,
		"another tree":          strings.Replace(etc, "tree /etc", "tree /opt", 1) + "done\n" + absent,
		"without its root":      "tree /etc\ndone\n" + absent,
		"elsewhere":             etc + "f 644 0 0 1 /opt/x\t\ndone\n" + absent,
		"named twice":           etc + "f 644 0 0 1 /etc/x\t\nf 600 0 0 1 /etc/x\t\ndone\n" + absent,
		"a sum of nothing":      etc + "sum " + sum + "  /etc/y\ndone\n" + absent,
		"two sums":              etc + "f 644 0 0 1 /etc/x\t\nsum " + sum + "  /etc/x\nsum " + sum + "  /etc/x\ndone\n" + absent,
		"a sum that is none":    etc + "f 644 0 0 1 /etc/x\t\nsum " + strings.Repeat("z", 64) + "  /etc/x\ndone\n" + absent,
		"a link without target": etc + "l 777 0 0 99999999999 /etc/l\tx\ndone\n" + absent,
		"not a mode":            etc + "f 9 0 0 1 /etc/x\t\ndone\n" + absent,
		"too many":              etc + strings.Repeat("x", 10) + "\ndone\n" + absent,
	} {
		if got, err := readFiles(specs.Reply{Out: []byte(out)}); err == nil {
			t.Errorf("%s is taken for %+v", name, got)
		}
	}
	if _, err := readFiles(specs.Reply{Out: []byte(etc + "done\n" + absent), ErrOut: []byte("find: /etc/x: Permission denied\n")}); err == nil {
		t.Error("what could not be read is passed over")
	}
	for _, out := range []string{"", "user:root:0:0:set:/root:/bin/sh\n", "end\n", "user:root\nend\n"} {
		if got, _, err := readAccounts(specs.Reply{Out: []byte(out)}); err == nil {
			t.Errorf("%q is taken for %v", out, got)
		}
	}
	for _, out := range []string{"", "end\n", "tcp 00000000:0050\nend\n", "ephemeral 1 2\ntcp zz\nend\n", "ephemeral 1 2\n"} {
		if got, err := readPorts(specs.Reply{Out: []byte(out)}); err == nil {
			t.Errorf("%q is taken for %v", out, got)
		}
	}
	for _, out := range []string{"", "dpkg\n", "dpkg\nnginx\n", "guix\nx 1\n", "apk\nnginx\n"} {
		if got, err := readPackages(specs.Reply{Out: []byte(out)}); err == nil {
			t.Errorf("%q is taken for %v", out, got)
		}
	}
}
