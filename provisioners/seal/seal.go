// Package seal removes what must not be in an image: what tells one machine
// from another, what lets someone in, and what the bake has left behind.
package seal

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Options are the options of a `provisioner "seal"` block. It stands last in
// its build: a later step may bring back what was removed, and a connection
// that breaks after it cannot be made again. None of its options are Packer's.
type Options struct {
	// MachineID empties /etc/machine-id, so that each machine gets its own at
	// its first boot, and removes the copy that D-Bus may have.
	MachineID bool `cfg:"machine_id"`
	// SSHHostKeys removes the keys that sshd shows to its clients. It warns when
	// nothing on the machine would make new ones.
	SSHHostKeys bool `cfg:"ssh_host_keys"`
	// TemporaryKey removes the public key that this bake has logged in with from
	// each user's authorized_keys, when the builder made one.
	TemporaryKey bool `cfg:"temporary_key"`
	// AuthorizedKeys removes each user's authorized_keys altogether. What the
	// image needs to be reached must then come from elsewhere, e.g. cloud-init.
	AuthorizedKeys bool `cfg:"authorized_keys"`
	// KnownHosts removes each user's list of hosts that were reached by SSH.
	KnownHosts bool `cfg:"known_hosts"`
	// CloudInit removes what cloud-init knows of this machine, so that it starts
	// anew in the next one. Seeds and the scripts in per-boot, per-instance and
	// per-once stay.
	CloudInit bool `cfg:"cloud_init"`
	// Logs empties the files in /var/log, and removes rotated ones, the journal,
	// crash reports and core dumps.
	Logs bool `cfg:"logs"`
	// Histories removes what shells and their like remember of each user's input.
	Histories bool `cfg:"histories"`
	// PackageCaches removes what apt, dnf, yum, zypper, apk, pacman, pip and npm
	// can fetch again, also apt's lists.
	PackageCaches bool `cfg:"package_caches"`
	// RandomSeed removes the saved seeds of the random number generator.
	RandomSeed bool `cfg:"random_seed"`
	// DHCPLeases removes the leases of DHCP clients, and the ids that they show
	// to servers.
	DHCPLeases bool `cfg:"dhcp_leases"`
	// UdevNetRules removes udev's rules that tie names of network and CD devices
	// to this machine's hardware.
	UdevNetRules bool `cfg:"udev_net_rules"`
	// Mail empties the mailboxes in /var/mail and /var/spool/mail.
	Mail bool `cfg:"mail"`
	// Tmp removes all files in /tmp and /var/tmp.
	Tmp bool `cfg:"tmp"`
	// Hostname empties /etc/hostname. An image that no cloud names its machines
	// may need the name.
	Hostname bool `cfg:"hostname"`
	// Paths are more files and directories to remove. They are absolute and may
	// contain the wildcards *, ? and [ ].
	Paths []string `cfg:"paths"`
	// Keep are files and directories that nothing of the above touches, with all
	// that is in them. They are absolute and may contain the wildcards *, which
	// here stands for / too, ? and [ ].
	Keep []string `cfg:"keep"`
	// DryRun only says what would be removed. Nothing is proven then.
	DryRun bool `cfg:"dry_run"`
}

// Provisioner is the seal provisioner.
type Provisioner struct {
	o    Options
	done *done // what the last Provision did
}

// done is what the proof goes by.
type done struct {
	key   string // of the bake, as authorized_keys has it
	began string // when, in the machine's own time, as touch -t has it
}

// New returns a seal provisioner with the default options.
func New() *Provisioner {
	return &Provisioner{o: Options{
		MachineID: true, SSHHostKeys: true, TemporaryKey: true, CloudInit: true, Logs: true, Histories: true, PackageCaches: true,
		RandomSeed: true, DHCPLeases: true, UdevNetRules: true, Mail: true, Tmp: true,
	}}
}

var _ provisioners.Proven = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(context.Context, *provisioners.Env) []config.Problem {
	var problems []config.Problem
	bad := func(option, format string, args ...any) {
		problems = append(problems, config.Problem{Option: option, Summary: fmt.Sprintf(format, args...)})
	}
	for option, paths := range map[string][]string{"paths": p.o.Paths, "keep": p.o.Keep} {
		for _, q := range paths {
			switch {
			case !path.IsAbs(q) || strings.ContainsAny(q, "\x00\n"):
				bad(option, "%q in %s is no absolute path.", q, option)
			case path.Clean(q) != q:
				bad(option, "%q in %s must be written without //, a dot as a name, and a / at its end: %q.", q, option, path.Clean(q))
			case option == "paths" && needed.MatchString(q):
				bad(option, "%q in paths is needed by the system itself: name what in it is to go.", q)
			}
		}
	}
	if len(p.o.Paths) == 0 && len(p.o.groups("")) == 0 {
		bad("", "There is nothing to seal: every option is off.")
	}
	slices.SortFunc(problems, func(a, b config.Problem) int { return strings.Compare(a.Option+a.Summary, b.Option+b.Summary) })
	return problems
}

// needed are the paths that no system lives without, and wildcards in their
// place. What a user names below them is the user's to know.
var needed = regexp.MustCompile(`^/((bin|boot|dev|etc|home|lib\w*|proc|root|run|sbin|sys|tmp|usr|var)(/\*)?|[^/]*[*?[][^/]*(/.*)?)?$`)

// Provision implements provisioners.Provisioner.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	p.done = nil
	if m == nil {
		return fmt.Errorf("the seal provisioner needs a machine: %w (communicator = \"none\"?)", machine.ErrNone)
	}
	if s := m.Platform().Shell; s != "" && s != "sh" {
		return fmt.Errorf("the seal provisioner needs a Unix shell, and this machine's is %s", s)
	}
	key := ""
	if p.o.TemporaryKey {
		switch public := env.Values["SSHPublicKey"]; {
		case public == "":
			env.Events.Say("temporary_key: the builder tells of no key that it made for this bake")
		default:
			if key = blob(public); key == "" {
				return errors.New("the builder's SSHPublicKey is no line of authorized_keys, so it cannot be looked for; set temporary_key = false if the builder removes it")
			}
		}
	}
	r := &reader{token: script.Token(), events: env.Events, all: p.o.DryRun || env.Debug, dry: p.o.DryRun}
	tail := &script.Tail{Next: env.Events.Sink}
	scope := env.Events
	scope.Sink = tail
	errs := scope.Lines("stderr")
	scope.Sink = event.Func(func(e event.Event) {
		if !r.line(e.Text) {
			tail.Emit(e)
		}
	})
	out := scope.Lines("stdout")
	err := m.Run(ctx, machine.Command{Line: script.AsRoot(p.o.script(r.token, key)), Stdout: out, Stderr: errs})
	out.Flush()
	errs.Flush()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("the machine is not sealed: %w%s", err, tail)
	case !r.ended:
		return fmt.Errorf("the machine is not sealed: the script was not seen to its end%s", tail)
	}
	verb := "removed"
	if p.o.DryRun {
		verb = "would remove"
	}
	env.Events.Say(fmt.Sprintf("%s %s in all", verb, r.total))
	if !p.o.DryRun {
		p.done = &done{key: key, began: r.began}
	}
	return nil
}

// blob is the key itself in a line of authorized_keys.
func blob(line string) string {
	for f := range strings.FieldsSeq(line) {
		// The blob begins with the length of its type's name.
		if strings.HasPrefix(f, "AAAA") && keyText.MatchString(f) {
			return f
		}
	}
	return ""
}

var keyText = regexp.MustCompile(`^[A-Za-z0-9+/]{40,}={0,2}$`)

// amount is how much was removed.
type amount struct{ files, bytes int64 }

func (a amount) String() string {
	noun := "files"
	if a.files == 1 {
		noun = "file"
	}
	return fmt.Sprintf("%d %s, %d bytes", a.files, noun, a.bytes)
}

// reader understands what the script says.
type reader struct {
	token    string
	events   event.Scope
	all, dry bool // say each path; nothing is removed
	total    amount
	began    string
	ended    bool
}

// line takes a line of output, and says whether it was the script's own.
func (r *reader) line(text string) bool {
	text, ok := strings.CutPrefix(text, r.token+" ")
	if !ok {
		return false
	}
	word, rest, _ := strings.Cut(text, " ")
	switch word {
	case "began":
		if stamp.MatchString(rest) {
			r.began = rest
		}
	case "path": // FILES BYTES PATH
		if a, path := counts(rest); r.all && a.files > 0 {
			r.events.Say(fmt.Sprintf("  %s: %s", path, a))
		}
	case "group": // FILES BYTES NAME
		a, name := counts(rest)
		r.total.files += a.files
		r.total.bytes += a.bytes
		if a.files > 0 {
			verb := "removed"
			if r.dry {
				verb = "would remove"
			}
			r.events.Say(fmt.Sprintf("%s: %s %s", name, verb, a))
		}
	case "warn":
		r.events.Warn(rest)
	case "end":
		r.ended = r.began != ""
	}
	return true
}

var stamp = regexp.MustCompile(`^\d{12}\.\d\d$`)

func counts(s string) (amount, string) {
	f := strings.SplitN(s, " ", 3)
	if len(f) < 3 {
		return amount{}, s
	}
	files, _ := strconv.ParseInt(f[0], 10, 64) // what a machine says of itself may be nonsense
	bytes, _ := strconv.ParseInt(f[1], 10, 64)
	return amount{max(files, 0), max(bytes, 0)}, f[2]
}
