//go:build linux

package amazon

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// debian is a tree of this host's own Debian packages, with a real dpkg.
func debian(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"dpkg-query", "dpkg-deb", "tar"} {
		if findTool(tool) == "" {
			sandboxtest.Missing(t, "needs "+tool+", of a Debian system")
		}
	}
	dir := t.TempDir()
	script := `set -e
dir=$1
want="base-files base-passwd dash bash coreutils dpkg init-system-helpers sed grep tar gzip diffutils findutils perl-base debianutils libc-bin mawk hostname util-linux"
all=$want
while :; do # and what they need
	deps=$(dpkg-query -W -f='${Pre-Depends}, ${Depends}, ' $all 2>/dev/null | tr ',|' '\n\n' | sed 's/(.*//; s/:any//; s/ //g' | sort -u)
	next=$(printf '%s\n' $all $deps | sort -u | while read -r p; do dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$p" 2>/dev/null; done | sed -n 's/^installed //p' | sort -u)
	[ "$next" = "$all" ] && break
	all=$next
done
mkdir -p "$dir/var/lib/dpkg/info" "$dir/var/lib/dpkg/updates" "$dir/proc" "$dir/sys" "$dir/dev" "$dir/tmp" "$dir/run" "$dir/root" "$dir/var/log" "$dir/etc" "$dir/usr/bin" "$dir/usr/sbin" "$dir/usr/lib" "$dir/usr/lib64"
for l in bin sbin lib lib64; do [ -L "/$l" ] && ln -s "usr/$l" "$dir/$l" || mkdir -p "$dir/$l"; done
dpkg-query -L $all | sort -u | grep -v -e '^/usr/share/\(doc\|man\|locale\|info\)' -e '^package ' | sed 's,^/\(bin\|sbin\|lib\|lib64\)/,/usr/\1/,' |
	while read -r f; do if [ -L "$f" ] || [ -f "$f" ]; then echo "${f#/}"; fi; done | tar -C / -cf - --no-recursion -T - | tar -C "$dir" -xf -
cp /etc/passwd /etc/group "$dir/etc/"
ln -sf dash "$dir/usr/bin/sh"
[ -e "$dir/usr/bin/awk" ] || ln -s mawk "$dir/usr/bin/awk"
dpkg-query -s $all > "$dir/var/lib/dpkg/status"
: > "$dir/var/lib/dpkg/available"; : > "$dir/var/lib/dpkg/diversions"
for p in $all; do cp /var/lib/dpkg/info/"$p".list /var/lib/dpkg/info/"$p":*.list "$dir/var/lib/dpkg/info/" 2>/dev/null || true; done
chroot "$dir" ldconfig
chroot "$dir" dpkg --version >/dev/null
`
	if out, err := exec.Command("sh", "-c", script, "sh", dir).CombinedOutput(); err != nil {
		sandboxtest.Missing(t, "no tree can be made of this host's packages: "+err.Error()+": "+string(out))
	}
	return dir
}

// A package whose scripts start its service in all the ways that there are is
// installed by the real dpkg: it is installed, and nothing was started.
func TestChrootGuardWithDpkg(t *testing.T) {
	needVolumes(t)
	tree := debian(t)
	pkg := t.TempDir()
	sandboxtest.Write(t, pkg, "DEBIAN/control", "Package: noisy\nVersion: 1.2-3\nArchitecture: all\nMaintainer: test <test@example.com>\nDescription: starts things\n", 0o644)
	sandboxtest.Write(t, pkg, "DEBIAN/postinst", `#!/bin/sh
set -e
invoke-rc.d noisy start
start-stop-daemon --start --exec /usr/bin/noisyd
start-stop-daemon --stop --oknodo --exec /usr/bin/noisyd
service noisy start
`, 0o755)
	sandboxtest.Write(t, pkg, "etc/init.d/noisy", "#!/bin/sh\ntouch /started-by-init\n", 0o755)
	sandboxtest.Write(t, pkg, "usr/bin/noisyd", "#!/bin/sh\ntouch /started-by-daemon\n", 0o755)
	deb := filepath.Join(tree, "noisy.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", pkg, deb).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := newChrootCloud(t, tree, ec2.Options{NVMe: true})

	// That the package starts things where nothing keeps it from that.
	k := c.begin("noisy", c.body("ami_name = \"noisy\"\nstart_services = true\n"))
	k.boot()
	out := k.sh("dpkg -i /noisy.deb && ls /")
	if !strings.Contains(out, "started-by-init") || !strings.Contains(out, "started-by-daemon") {
		t.Fatalf("unguarded, the package starts nothing, so that this test shows nothing: %s", out)
	}
	k.release()

	k = c.begin("quiet", c.body("ami_name = \"quiet\"\npackage_metadata = \"noisy\"\n"))
	k.boot()
	out = k.sh("dpkg -i /noisy.deb && ls / && dpkg-query -W noisy")
	if strings.Contains(out, "started-by") || !strings.Contains(out, "noisy\t1.2-3") {
		t.Errorf("guarded: %s", out)
	}
	k.snapshot()
	k.release()
	i := c.image("quiet")
	if tags := tagMap(i.Tags); tags["appversion"] != "noisy-1.2-3" || tags["package_arch"] != "all" {
		t.Errorf("tags %v", tags)
	}
	for _, f := range []string{"/usr/sbin/policy-rc.d", "/usr/sbin/start-stop-daemon.ingot-quiet", "/started-by-init"} {
		if _, err := c.ReadFile(testRegions[0], *i.ImageId, f); err == nil {
			t.Errorf("the AMI has %s", f)
		}
	}
	if b, err := c.ReadFile(testRegions[0], *i.ImageId, "/usr/sbin/start-stop-daemon"); err != nil || !strings.HasPrefix(string(b), "\x7fELF") {
		t.Errorf("start-stop-daemon in the AMI: %.20q, %v", b, err)
	}
	c.wantClean("the bakes")
}
