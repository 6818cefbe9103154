package amazon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/machine"
)

// replaced is something of ours in the tree, for as long as it is provisioned.
type replaced struct {
	path string // with no link in its directory
	// before is how ls described what was there; "": nothing was.
	before string
	// copied: a file of this host, which stays ours even when it is changed.
	copied bool
}

// noServices is the status by which policy-rc.d tells invoke-rc.d not to start anything.
const policyRC = `#!/bin/sh
# MARK: nothing is started while the image is baked
exit 101
`

// nothing takes the place of a program that starts services.
const nothing = `#!/bin/sh
# MARK: nothing is started while the image is baked
echo "${0##*/} $*: nothing is started while the image is baked" >&2
exit 0
`

// quietSystemctl leaves systemctl all but what speaks to a running systemd.
const quietSystemctl = `#!/bin/sh
# MARK: nothing is started while the image is baked
verb=
skip=
for a in "$@"; do
	if [ -n "$skip" ]; then skip=; continue; fi
	case $a in
	-t|-p|-n|-o|-s|-H|-M|-P|--type|--state|--property|--root|--host|--machine|--lines|--output|--signal|--job-mode|--kill-who|--kill-whom) skip=1 ;;
	-*) ;;
	*) verb=$a; break ;;
	esac
done
case $verb in
start|stop|restart|try-restart|reload|reload-or-restart|try-reload-or-restart|force-reload|condrestart|isolate|kill|daemon-reload|daemon-reexec|reset-failed|reboot|poweroff|halt|suspend|rescue|emergency|default)
	echo "systemctl $*: nothing is started while the image is baked" >&2
	exit 0 ;;
esac
n=$#
while [ "$n" -gt 0 ]; do
	a=$1; shift
	[ "$a" = --now ] || set -- "$@" "$a"
	n=$((n - 1))
done
exec "$0.MARK" "$@"
`

// tellTree defines what the scripts below share: real prints a path with no link
// in its directory, and look describes what is there, in one line.
const tellTree = `set -eu
real() { d=$(cd -P -- "${1%/*}/" 2>/dev/null && pwd) && printf '%s' "${d%/}/${1##*/}"; }
there() { [ -e "$1" ] || [ -L "$1" ]; }
look() { LC_ALL=C ls -lnid -- "$1" | tr '\n\t' '  '; }
`

// guard is what the services are kept from being started by: paths, and what
// stands there meanwhile. always: also where the tree has no such file.
func guards(mark string) []struct {
	path, text string
	always     bool
} {
	text := func(s string) string { return strings.ReplaceAll(s, "MARK", mark) }
	out := []struct {
		path, text string
		always     bool
	}{{"/usr/sbin/policy-rc.d", text(policyRC), true}}
	for _, dir := range []string{"/bin/", "/usr/bin/", "/sbin/", "/usr/sbin/"} {
		out = append(out, struct {
			path, text string
			always     bool
		}{dir + "systemctl", text(quietSystemctl), false})
		for _, name := range []string{"start-stop-daemon", "service", "initctl", "rc-service"} {
			out = append(out, struct {
				path, text string
				always     bool
			}{dir + name, text(nothing), false})
		}
	}
	return out
}

// mark names what the bake puts into the tree.
func (b *Chroot) mark() string { return "ingot-" + b.run.run.BakeID }

// ask runs a script in the tree and returns what it prints.
func (b *Chroot) ask(ctx context.Context, script string) (string, error) {
	var out, stderr bytes.Buffer
	err := b.tree.Run(ctx, machine.Command{Line: script, Stdout: &out, Stderr: &stderr})
	if err != nil {
		if text := strings.TrimSpace(stderr.String()); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
	}
	return out.String(), err
}

// prepareTree keeps services from being started in the tree, and copies files into it.
func (b *Chroot) prepareTree(ctx context.Context) error {
	_, err := b.ask(ctx, "exit 0")
	if exit := (*machine.ExitError)(nil); err != nil && ctx.Err() == nil {
		// 126 and 127 are the shell's absence; the text says which.
		if b.o.FromScratch && len(b.o.CopyFiles) == 0 {
			b.run.run.Events.Say("The tree has no /bin/sh yet, so that nothing in it can start a service.")
			return nil
		}
		if !errors.As(err, &exit) || exit.Status > 125 {
			return fmt.Errorf("the tree at %s has no shell that runs on this host, and nothing can be provisioned in it: %w", b.path, err)
		}
	}
	if err != nil {
		return err
	}
	var script strings.Builder
	mark := b.mark()
	script.WriteString(tellTree + "mark=" + machine.Quote(mark) + `
# put PATH ALWAYS KIND TEXT: what is there goes aside.
put() {
	p=$(real "$1") || return 0
	if there "$p.$mark"; then return 0; fi # by another path
	before=
	if there "$p"; then
		[ "$3" = f ] || [ -f "$p" ] || return 0
		if [ -f "$p" ] && [ ! -L "$p" ] && [ "$3" = g ] && head -n 2 "$p" | grep -q "$mark"; then return 0; fi
		before=$(look "$p")
		mv -- "$p" "$p.$mark"
	elif [ "$2" != always ]; then
		return 0
	fi
	if [ "$3" = g ]; then printf '%s' "$4" > "$p"; chmod 755 "$p"; fi
	printf '%s\t%s\t%s\n' "$3" "$p" "$before"
}
`)
	if !b.o.StartServices {
		for _, g := range guards(mark) {
			always := "present"
			if g.always {
				always = "always"
			}
			script.WriteString("put " + machine.Quote(g.path, always, "g", g.text) + "\n")
		}
	}
	contents := map[string][]byte{}
	for _, f := range b.o.CopyFiles {
		content, err := readCopied(f)
		if err != nil {
			return fmt.Errorf("copy_files: %w", err)
		}
		f = path.Clean(f)
		contents[f] = content
		script.WriteString("mkdir -p -- " + machine.Quote(path.Dir(f)) + "\n")
		script.WriteString("put " + machine.Quote(f, "always", "f", "") + "\n")
	}
	out, err := b.ask(ctx, script.String())
	for line := range strings.Lines(out) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		p, before, ok := strings.Cut(rest, "\t")
		if ok {
			b.put = append(b.put, replaced{path: p, before: before, copied: kind == "f"})
		}
	}
	if err != nil {
		return fmt.Errorf("prepare the tree: %w", err)
	}
	for _, f := range b.o.CopyFiles {
		f = path.Clean(f)
		mode := os.FileMode(0o644)
		if fi, err := os.Stat(f); err == nil {
			mode = fi.Mode().Perm()
		}
		if err := b.tree.Put(ctx, path.Dir(f), machine.BytesTree(path.Base(f), contents[f], mode)); err != nil {
			return fmt.Errorf("copy %s into the tree: %w", f, err)
		}
	}
	return nil
}

// maxCopied bounds a file of copy_files.
const maxCopied = 64 << 20

func readCopied(f string) ([]byte, error) {
	fi, err := os.Stat(f)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxCopied {
		return nil, fmt.Errorf("%s is no file of at most %d MiB", f, maxCopied>>20)
	}
	return os.ReadFile(f)
}

// restoreTree gives the tree back what was put aside, and checks that. What has
// meanwhile taken our place is newer than what we had put aside, and stays: a
// package that was upgraded, or a link that one has installed.
func (b *Chroot) restoreTree(ctx context.Context) error {
	if len(b.put) == 0 {
		return nil
	}
	var script strings.Builder
	script.WriteString(tellTree + "mark=" + machine.Quote(b.mark()) + `
give() {
	p=$1
	ours=
	if [ -L "$p" ]; then :
	elif [ "$2" = f ]; then if [ -f "$p" ] || ! there "$p"; then ours=yes; fi
	elif [ -f "$p" ] && head -n 2 "$p" | grep -q "$mark"; then ours=yes
	fi
	if [ -n "$ours" ]; then
		rm -f -- "$p"
		if there "$p.$mark"; then mv -- "$p.$mark" "$p"; fi
		now=
		if there "$p"; then now=$(look "$p"); fi
		printf 'ours\t%s\t%s\n' "$p" "$now"
	else
		rm -f -- "$p.$mark"
		printf 'theirs\t%s\t\n' "$p"
	fi
	if there "$p.$mark"; then echo "$p.$mark is still there" >&2; exit 1; fi
}
`)
	for i := len(b.put) - 1; i >= 0; i-- {
		kind := "g"
		if b.put[i].copied {
			kind = "f"
		}
		script.WriteString("give " + machine.Quote(b.put[i].path, kind) + "\n")
	}
	out, err := b.ask(ctx, script.String())
	if err != nil {
		return fmt.Errorf("put the tree back in order: %w", err)
	}
	now := map[string]string{}
	var changed []string
	for line := range strings.Lines(out) {
		whose, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		p, is, _ := strings.Cut(rest, "\t")
		now[p] = is
		if whose == "theirs" {
			changed = append(changed, p)
		}
	}
	for _, r := range b.put {
		is, told := now[r.path]
		if !told {
			return fmt.Errorf("put the tree back in order: nothing is known of %s", r.path)
		}
		kept := false
		for _, p := range changed {
			kept = kept || p == r.path
		}
		if !kept && is != r.before {
			return fmt.Errorf("put the tree back in order: %s was %q, and is %q now", r.path, r.before, is)
		}
	}
	if len(changed) > 0 {
		b.run.run.Events.Say("Replaced or removed by what was provisioned, and so left as it is now: " + strings.Join(changed, ", "))
	}
	b.put = nil
	return nil
}

// packageInfo is what a package manager knows of a package.
type packageInfo struct{ name, version, release, arch string }

// askPackage asks the package manager of a tree.
func askPackage(ctx context.Context, m machine.Machine, name string) (*packageInfo, error) {
	q := machine.Quote(name)
	script := `if command -v dpkg-query >/dev/null 2>&1; then
	dpkg-query -W -f='dpkg\t${db:Status-Status}\t${Package}\t${Version}\t${Architecture}\n' -- ` + q + `
elif command -v rpm >/dev/null 2>&1; then
	rpm -q --qf 'rpm\tinstalled\t%{NAME}\t%{VERSION}\t%{RELEASE}\t%{ARCH}\n' -- ` + q + `
else
	echo "the tree has neither dpkg nor rpm" >&2; exit 3
fi`
	var out, stderr bytes.Buffer
	if err := m.Run(ctx, machine.Command{Line: script, Stdout: &out, Stderr: &stderr}); err != nil {
		return nil, fmt.Errorf("ask for the package %s: %w: %s", name, err, strings.TrimSpace(stderr.String()+out.String()))
	}
	for line := range strings.Lines(out.String()) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		switch {
		case len(f) == 5 && f[0] == "dpkg" && f[1] == "installed":
			p := &packageInfo{name: f[2], version: f[3], arch: f[4]}
			if i := strings.LastIndex(p.version, "-"); i > 0 {
				p.version, p.release = p.version[:i], p.version[i+1:]
			}
			return p, nil
		case len(f) == 6 && f[0] == "rpm":
			return &packageInfo{f[2], f[3], f[4], f[5]}, nil
		}
	}
	return nil, fmt.Errorf("the package %s is not installed in the tree", name)
}

// full is the package as name-version-release.
func (p *packageInfo) full() string {
	s := p.name + "-" + p.version
	if p.release != "" {
		s += "-" + p.release
	}
	return s
}

// The tags of package and lineage, as Aminator has them where it has them.
const (
	tagAppVersion  = "appversion"
	tagBaseID      = "base_ami_id"
	tagBaseName    = "base_ami_name"
	tagBaseVersion = "base_ami_version"
)

// describe puts package and lineage into tags and, if there is none, the description.
func (p *packageInfo) describe(source *types.Image, tags map[string]string, ami *AMIOptions) {
	tags[tagAppVersion] = p.full()
	tags["package_name"], tags["package_version"], tags["package_arch"] = p.name, p.version, p.arch
	if p.release != "" {
		tags["package_release"] = p.release
	}
	description := fmt.Sprintf("name=%s, arch=%s", p.full(), p.arch)
	if source != nil {
		id, name := aws.ToString(source.ImageId), aws.ToString(source.Name)
		tags[tagBaseID], tags[tagBaseName] = id, name
		version := tagOf(source.Tags, tagAppVersion)
		if version == "" {
			version = tagOf(source.Tags, tagBaseVersion)
		}
		if version == "" {
			version = aws.ToString(source.CreationDate)
		}
		tags[tagBaseVersion] = version
		description += fmt.Sprintf(", ancestor_name=%s, ancestor_id=%s, ancestor_version=%s", name, id, version)
	}
	for k, v := range tags {
		if r := []rune(v); len(r) > 256 {
			tags[k] = string(r[:256])
		}
	}
	if ami.AMIDescription == "" {
		if r := []rune(description); len(r) > 255 {
			description = string(r[:255])
		}
		ami.AMIDescription = strings.ReplaceAll(description, "{{", "{ {") // it is rendered like a template's
	}
}
