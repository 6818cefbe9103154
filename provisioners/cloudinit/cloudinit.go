// Package cloudinit waits until cloud-init has set a machine up, and says what
// went wrong when it could not.
package cloudinit

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// Options are the options of a `provisioner "cloud-init"` block. It stands first
// in its build: what installs packages while cloud-init still does gets in its
// way. None of its options are Packer's.
type Options struct {
	// WaitTimeout is how long cloud-init may take, from when this step begins.
	WaitTimeout time.Duration `cfg:"wait_timeout"`
	// Required makes it an error that cloud-init is not installed, or is
	// disabled; otherwise that is said, and nothing is waited for.
	Required bool `cfg:"required"`
	// AcceptDegraded makes a warning of what cloud-init calls recoverable errors,
	// such as user data that it could not use. That something is deprecated is a
	// warning in any case. Versions before 23.4 do not know of such errors.
	AcceptDegraded bool `cfg:"accept_degraded"`
}

// Provisioner is the cloud-init provisioner.
type Provisioner struct{ o Options }

// New returns a cloud-init provisioner with the default options.
func New() *Provisioner {
	return &Provisioner{Options{WaitTimeout: 10 * time.Minute, Required: true}}
}

var _ provisioners.Idempotent = (*Provisioner)(nil)

// Options implements provisioners.Provisioner.
func (p *Provisioner) Options() any { return &p.o }

// Check implements provisioners.Provisioner.
func (p *Provisioner) Check(context.Context, *provisioners.Env) []config.Problem {
	if p.o.WaitTimeout < time.Second {
		return []config.Problem{{Option: "wait_timeout", Summary: "wait_timeout must be at least 1s."}}
	}
	return nil
}

// Changes implements provisioners.Idempotent: waiting changes nothing.
func (p *Provisioner) Changes() (n int, known bool) { return 0, true }

// Provision implements provisioners.Provisioner.
func (p *Provisioner) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	if m == nil {
		return fmt.Errorf("the cloud-init provisioner needs a machine: %w (communicator = \"none\"?)", machine.ErrNone)
	}
	if s := m.Platform().Shell; s != "" && s != "sh" {
		return fmt.Errorf("the cloud-init provisioner needs a Unix shell, and this machine's is %s", s)
	}
	a := &answer{token: script.Token(), events: env.Events}
	tail := &script.Tail{Next: env.Events.Sink}
	scope := env.Events
	scope.Sink = tail
	errs := scope.Lines("stderr")
	scope.Sink = event.Func(func(e event.Event) {
		if !a.line(e.Text) {
			tail.Emit(e)
		}
	})
	out := scope.Lines("stdout")
	env.Events.Say("waiting for cloud-init")
	line := fmt.Sprintf("t=%s limit=%d\n%s", a.token, int(p.o.WaitTimeout.Seconds()), wait)
	err := m.Run(ctx, machine.Command{Line: "exec sh -c " + machine.Quote(line), Stdout: out, Stderr: errs})
	out.Flush()
	errs.Flush()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("wait for cloud-init: %w%s", err, tail)
	case !a.ended:
		return fmt.Errorf("wait for cloud-init: the command was not seen to its end%s", tail)
	}
	v, err := p.o.judge(a)
	switch {
	case err != nil:
		return err
	case v.warn:
		env.Events.Warn(v.text)
	default:
		env.Events.Say(v.text)
	}
	return nil
}

// wait waits on the machine for $limit seconds at most, and then says in lines
// that begin with $t what cloud-init says. Versions before 17.1 have no status
// command; they leave result.json when they have ended. The clock may be set
// while it waits, so the time is taken from the kernel's.
const wait = `PATH=${PATH:+$PATH:}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
say() { printf '%s %s\n' "$t" "$*"; }
quote() { { cat; echo; } | sed "s/^/$t $1 /"; } # the last line may lack its end
command -v cloud-init >/dev/null || { say absent; say end; exit 0; }
now() { if read -r u v 2>/dev/null </proc/uptime; then echo "${u%.*}"; else date +%s; fi; }
d=/run/cloud-init w= stage= began=$(now)
if cloud-init status --help >/dev/null 2>&1; then
	cloud-init status --wait >/dev/null 2>&1 &
	w=$!
	trap 'kill "$w" 2>/dev/null' EXIT
	trap 'exit 143' HUP INT TERM
	over() { ! kill -0 "$w" 2>/dev/null; }
else
	over() { [ -e $d/result.json ] || [ -e $d/disabled ]; }
fi
while ! over; do
	s=$(sed -n 's/^ *"stage": *"\([a-z-]*\)".*/\1/p' $d/status.json 2>/dev/null | head -n 1)
	[ "$s" = "$stage" ] || { stage=$s; [ -z "$s" ] || say stage "$s"; }
	if [ "$(($(now) - began))" -ge "$limit" ]; then say late; break; fi
	sleep 0.2 2>/dev/null || sleep 1
done
if [ "$w" ]; then
	{ kill "$w"; wait "$w"; } 2>/dev/null
	say code "$?"
	trap - EXIT
	if cloud-init status --help 2>&1 | grep -q -e --format; then cloud-init status --format json 2>/dev/null | quote json; else cloud-init status --long 2>/dev/null | quote long; fi
elif [ -e $d/disabled ]; then
	echo 'status: disabled' | quote long
fi
[ ! -r $d/result.json ] || { quote result <$d/result.json; }
{ tail -n 40 /var/log/cloud-init-output.log || sudo -n tail -n 40 /var/log/cloud-init-output.log; } 2>/dev/null | quote log
say end
exit 0
`

// answer is what the machine has said.
type answer struct {
	token  string
	events event.Scope

	absent, late, ended bool
	code                int // of cloud-init status --wait; -1: there is no such command
	known               bool
	json, long, result  []byte
	log                 []string
}

// maxText is more than any cloud-init says of itself.
const maxText = 1 << 20

// line takes a line of output, and says whether it was the script's own.
func (a *answer) line(text string) bool {
	text, ok := strings.CutPrefix(text, a.token+" ")
	if !ok {
		return false
	}
	word, rest, _ := strings.Cut(text, " ")
	add := func(to *[]byte) {
		if len(*to)+len(rest) < maxText {
			*to = append(append(*to, rest...), '\n')
		}
	}
	switch word {
	case "absent":
		a.absent = true
	case "late":
		a.late = true
	case "end":
		a.ended = true
	case "stage":
		a.events.Say("cloud-init: " + rest)
	case "code":
		n, err := strconv.Atoi(rest)
		a.code, a.known = n, err == nil
	case "json":
		add(&a.json)
	case "long":
		add(&a.long)
	case "result":
		add(&a.result)
	case "log":
		if rest == "" {
			break
		}
		if a.log = append(a.log, password.ReplaceAllString(rest, "$1:(hidden)")); len(a.log) > 40 {
			a.log = a.log[1:]
		}
	}
	return true
}

// password is how versions before 21.2 log the random passwords that they set.
var password = regexp.MustCompile(`^([a-z_][a-z0-9_-]*):[A-Za-z0-9]{9,}$`)

// status is what cloud-init says of itself.
type status struct {
	Status      string              `json:"status"`
	Detail      string              `json:"detail"`
	Errors      []string            `json:"errors"`
	Recoverable map[string][]string `json:"recoverable_errors"`
}

// read makes one account of what was said in several ways.
func (a *answer) read() (status, error) {
	var s status
	switch {
	case len(a.json) > 0:
		if err := json.Unmarshal(a.json, &s); err != nil {
			return s, fmt.Errorf("what cloud-init status says cannot be read: %w", err)
		}
	case len(a.long) > 0:
		s = readLong(string(a.long))
	}
	if len(a.result) > 0 {
		var r struct {
			V1 struct {
				Errors      []string            `json:"errors"`
				Recoverable map[string][]string `json:"recoverable_errors"`
			} `json:"v1"`
		}
		if err := json.Unmarshal(a.result, &r); err != nil {
			return s, fmt.Errorf("cloud-init's result.json cannot be read: %w", err)
		}
		s.Errors = append(s.Errors, r.V1.Errors...)
		for level, texts := range r.V1.Recoverable {
			if s.Recoverable == nil {
				s.Recoverable = map[string][]string{}
			}
			s.Recoverable[level] = append(s.Recoverable[level], texts...)
		}
		if s.Status == "" { // it is written when all has ended
			s.Status = "done"
		}
	}
	return s, nil
}

// readLong reads `cloud-init status --long` of versions that have no JSON.
func readLong(text string) (s status) {
	detail := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, ":")
		switch {
		case detail && line != "":
			s.Detail = strings.TrimSpace(s.Detail + " " + line)
		case key == "status":
			s.Status = strings.TrimSpace(value)
		case key == "detail":
			s.Detail, detail = strings.TrimSpace(value), true
		}
	}
	return s
}

// deprecated is the level of recoverable errors that break nothing.
const deprecated = "DEPRECATED"

// verdict is what is said of a machine that may be used.
type verdict struct {
	text string
	warn bool
}

// judge says what an answer means.
func (o *Options) judge(a *answer) (verdict, error) {
	fail := func(format string, args ...any) (verdict, error) { return verdict{}, fmt.Errorf(format, args...) }
	unused := func(why string) (verdict, error) {
		if o.Required {
			return fail("%s; set required = false if that is as it should be", why)
		}
		return verdict{text: why + "; there is nothing to wait for"}, nil
	}
	if a.absent {
		return unused("cloud-init is not installed on this machine")
	}
	s, err := a.read()
	if err != nil {
		return verdict{}, err
	}
	lists := func(levels ...string) string {
		texts := slices.Clone(s.Errors)
		for _, l := range levels {
			texts = append(texts, s.Recoverable[l]...)
		}
		return list(texts)
	}
	var levels []string // that matter
	for l, texts := range s.Recoverable {
		if l != deprecated && len(texts) > 0 {
			levels = append(levels, l)
		}
	}
	slices.Sort(levels)
	failed := s.Status == "error" || len(s.Errors) > 0 || a.known && a.code == 1 && !a.late
	switch {
	case s.Status == "disabled":
		why := "cloud-init is disabled on this machine"
		if s.Detail != "" {
			why += " (" + oneLine(s.Detail) + ")"
		}
		return unused(why)
	case failed:
		text := lists(levels...)
		if text == "" {
			text = list([]string{s.Detail})
		}
		return fail("cloud-init has failed%s%s", text, a.output())
	case a.late:
		return fail("cloud-init was not done within wait_timeout (%v); its status is %q%s", o.WaitTimeout, oneLine(s.Status), a.output())
	case s.Status != "done" && !strings.HasPrefix(s.Status, "degraded"):
		return fail("cloud-init does not say that it is done; its status is %q%s", oneLine(s.Status), a.output())
	case a.known && a.code != 0 && a.code != 2:
		return fail("cloud-init status --wait ended with exit status %d%s", a.code, a.output())
	case len(levels) > 0 || strings.HasPrefix(s.Status, "degraded") || a.known && a.code == 2 && len(s.Recoverable[deprecated]) == 0:
		if o.AcceptDegraded {
			return verdict{"cloud-init is done, with recoverable errors" + lists(levels...), true}, nil
		}
		return fail("cloud-init is done, but with recoverable errors%s\nSet accept_degraded = true to go on with them.", lists(levels...))
	case len(s.Recoverable[deprecated]) > 0:
		return verdict{"cloud-init is done, and warns of what is deprecated" + lists(deprecated), true}, nil
	}
	return verdict{text: "cloud-init is done"}, nil
}

// list writes texts one below the other, each once.
func list(texts []string) string {
	out, seen := "", map[string]bool{}
	for _, t := range texts {
		if t = oneLine(t); t != "" && !seen[t] {
			seen[t] = true
			out += "\n    " + t
		}
	}
	if out != "" {
		out = ":" + out
	}
	return out
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// output is what the machine's own log ends with.
func (a *answer) output() string {
	if len(a.log) == 0 {
		return ""
	}
	return "\nThe last lines of /var/log/cloud-init-output.log are:\n    " + strings.Join(a.log, "\n    ")
}
