package digitalocean

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
)

// cleaning removes from a machine what lets someone in or pretend to be it, and
// fails when any of it is found afterwards. Its input is a line that says what
// to do ("host" and "key", each or "no"), then the texts that must be nowhere,
// one a line. Everything that cloud-init has of this droplet goes with the host
// key: its copies of the user data, parsed, pickled and cut into scripts.
const cleaning = `set -u
read -r host key
marks=$(cat)
[ -n "$marks" ] || { echo 'there is nothing to look for' >&2; exit 1; }
umask 077
if [ "$key" = key ]; then
	for f in /root/.ssh/authorized_keys /root/.ssh/authorized_keys2 /home/*/.ssh/authorized_keys /home/*/.ssh/authorized_keys2 "${login_home:-/root}/.ssh/authorized_keys"; do
		[ -f "$f" ] || continue
		printf '%s\n' "$marks" | grep -qF -f - -- "$f" || continue
		t=$(printf '%s\n' "$marks" | grep -vF -f - -- "$f")
		if [ -n "$t" ]; then printf '%s\n' "$t" >"$f"; else : >"$f"; fi
	done
fi
rm -rf /var/lib/cloud/instances/* /var/lib/cloud/instance /var/lib/cloud/data/* /run/cloud-init/instance-data-sensitive.json
for f in /var/log/cloud-init*.log; do
	[ -f "$f" ] && printf '%s\n' "$marks" | grep -qF -f - -- "$f" || continue
	t=$(printf '%s\n' "$marks" | grep -vF -f - -- "$f")
	printf '%s\n' "$t" >"$f"
done
if [ "$host" = host ]; then
	printf '%s\n' "$marks" | grep -lF -f - -- /etc/ssh/ssh_host_* 2>/dev/null | while IFS= read -r f; do rm -f -- "$f" "$f.pub"; done
	command -v cloud-init >/dev/null 2>&1 || grep -rqs 'ssh-keygen -A' /etc/systemd /lib/systemd /usr/lib/systemd /etc/init.d /etc/rc.d || {
		set -- /etc/ssh/ssh_host_*_key
		[ -f "$1" ] || echo 'warning: nothing on this machine makes host keys at the first boot, and it has none: sshd may not start on machines from this image' >&2
	}
fi
dirs=
for d in /etc /root /home /var/lib/cloud /var/log /var/tmp /tmp /var/backups /var/spool /opt /srv /usr/local; do [ -d "$d" ] && dirs="$dirs $d"; done
list=$(mktemp /tmp/ingot.XXXXXX) || exit 1
trap 'rm -f "$list"' EXIT
printf '%s\n' "$marks" >"$list"
# Only what has changed in the last days can have a key that is younger; where
# find cannot tell, everything is read.
young='-ctime -4'
find / -prune $young >/dev/null 2>&1 || young=
found=$(find $dirs -xdev -type f $young -size -8192 -exec grep -lF -f "$list" -- {} + 2>/dev/null)
# The list itself has to be found, or nothing was looked at.
printf '%s\n' "$found" | grep -qxF -e "$list" || { echo 'the machine cannot be searched' >&2; exit 1; }
left=$(printf '%s\n' "$found" | grep -vxF -e "$list")
[ -z "$left" ] || { printf '%s\n' "$left" | sed 's/^/still in: /' >&2; exit 1; }
sync
exit 0`

// clean takes the bake's keys off the machine, before its image is made.
func (b *Builder) clean(ctx context.Context, events event.Scope) error {
	m := b.m.machine
	if m == nil || m.Platform().Shell != "" && m.Platform().Shell != "sh" {
		return nil
	}
	what := [2]string{"no", "no"}
	var marks []string
	if b.m.host != nil {
		what[0] = "host"
		marks = append(marks, b.m.host.marks()...)
	}
	if f := strings.Fields(b.m.public); len(f) > 1 {
		what[1] = "key"
		marks = append(marks, f[1])
	}
	if len(marks) == 0 {
		return nil
	}
	events.Say("Removing the keys of the bake from the machine")
	in := strings.Join(what[:], " ") + "\n" + strings.Join(marks, "\n") + "\n"
	line := `exec 2>&1; login_home=$HOME; export login_home; if [ "$(id -u)" = 0 ]; then exec sh -c "$CLEANING"; else exec sudo -n sh -c "login_home='$HOME'; $CLEANING"; fi`
	var said bytes.Buffer
	err := m.Run(ctx, machine.Command{Line: line, Env: map[string]string{"CLEANING": cleaning}, Stdin: strings.NewReader(in), Stdout: &said})
	text := strings.TrimSpace(said.String())
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("the keys of the bake could not be removed from the machine, and an image with them in it is none: %w: %s", err, text)
	}
	for l := range strings.Lines(text) {
		if w, ok := strings.CutPrefix(strings.TrimSpace(l), "warning: "); ok {
			events.Warn(w)
		}
	}
	return nil
}
