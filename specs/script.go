package specs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/machine"
)

// A section is one question to the machine: a shell script with arguments,
// which one kind of fact understands the answer to. A subject with zero bytes
// in it is several arguments.
type section struct {
	kind     *kind
	subjects []string
	timeout  time.Duration
}

// maxLine keeps the command line below what a kernel takes as one argument
// (128 KiB) after a login shell has added its own.
const maxLine = 100 << 10

// prelude defines x ID SECONDS HOW SCRIPT ARGS…, which runs one section: as the
// shell itself does (HOW is -), or in a shell of its own. Each is a process, whose
// pid its first marker tells. While all run, a child of the script awaits pids on
// its standard input and ends their processes: time is kept on this side, so that
// it costs no process there. Where /proc does not tell pids, a sleep beside each
// section keeps the time; "-" is the status of one that it has killed. The two
// halves of the token are swapped here, so that a command that prints its
// parents' command lines does not print a marker.
var prelude = `PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin${PATH:+:$PATH}
LC_ALL=C
export PATH LC_ALL
_n=${_n#*/}${_n%%/*}
watch() {
	t=$1; shift
	$G "$@" & p=$!
	{ sleep "$t" 2>/dev/null || sleep "$((${t%.*} + 1))"; trap "" TERM; kill -s KILL -- "$m$p"; } >/dev/null 2>&1 & w=$!
	wait "$p" 2>/dev/null; _r=$?
	kill "$w" 2>/dev/null
	wait "$w" 2>/dev/null
	[ $? -gt 128 ] || _r=- # it has come to its end, and was not ended
}
x() {
	_i=$1 _s=$2 _h=$3 _q=$4; shift 4
	if [ "$_p" = $$ ]; then
		(
			for _p in /proc/self/task/*; do :; done
			_p=${_p##*/}
			printf '%s\n%s B %s %s\n' "$_e" "$_n" "$_i" "$_p"; printf '%s\n%s B %s %s\n' "$_e" "$_n" "$_i" "$_p" >&2
			if [ "$_h" = - ]; then eval "$_q"; else exec sh -c "$_q" sh "$@"; fi
		) </dev/null
		_r=$?
	else
		printf '%s\n%s B %s\n' "$_e" "$_n" "$_i"; printf '%s\n%s B %s\n' "$_e" "$_n" "$_i" >&2
		watch "$_s" sh -c "$_q" sh "$@" </dev/null
	fi
	_e="
$_n E $_i $_r
"
}
_e=
for _p in /proc/self/task/*; do :; done
_p=${_p##*/}
if [ "$_p" = $$ ]; then
	exec 3<&0
	{
` + proc.EndFunctions + `
		while read -r lead; do
			s=" "
			trap "" TERM # the script may come to its end meanwhile, and what is stopped would stay so
			look "$lead" && [ "$parent" = $$ ] && end KILL 40
			trap - TERM
		done
	} <&3 3<&- >/dev/null 2>&1 &
	_w=$!
	exec 3<&-
else
	G= m=
	if command -v setsid >/dev/null; then G=setsid m=-; fi
fi
exec </dev/null
`

// script writes the whole script for one round trip. It is one command, so that
// a shell that reads it from its standard input has read all of it before it begins.
func script(sections []section, halves [2]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "{ _n=%s/%s\n%s", halves[1], halves[0], prelude)
	written := map[string]int{} // the variable of each script
	for i, s := range sections {
		text, how, words := s.kind.script, "-", s.subjects
		if text == "" {
			text, how, words = s.subjects[0], "sh", nil
		}
		if s.kind.hidden {
			words = nil
			fmt.Fprintf(&b, "I=%s; export I\n", machine.Quote(s.subjects[0]))
		}
		v, ok := written[text]
		if !ok {
			v = len(written)
			written[text] = v
			fmt.Fprintf(&b, "_q%d=%s\n", v, machine.Quote(text))
		}
		var args []string
		for _, w := range words {
			args = append(args, strings.Split(w, "\x00")...)
		}
		fmt.Fprintf(&b, "x %d %s %s \"$_q%d\" %s\n", i, strconv.FormatFloat(s.limit().Seconds(), 'f', -1, 64), how, v, machine.Quote(args...))
		if s.kind.hidden {
			b.WriteString("unset I\n")
		}
	}
	b.WriteString("[ -n \"${_w-}\" ] && kill $_w 2>/dev/null\n")
	fmt.Fprintf(&b, "printf '%%s\\n%%s END %d\\n' \"$_e\" \"$_n\"; printf '%%s\\n%%s END %d\\n' \"$_e\" \"$_n\" >&2\nexit 0; }\n", len(sections), len(sections))
	return b.String()
}

// limit is the section's time: one process may answer for many subjects.
func (s section) limit() time.Duration {
	return s.timeout + time.Duration(len(s.subjects)/10)*time.Second/2
}

func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// command makes a command of a script. The machine's login shell may be any;
// sh reads the script, as root where sudo is asked for and it is not root yet.
// Hidden says that the script must not be on a command line. What the script
// reads then comes from stdin.
func command(text string, sudo, hidden bool, stdin io.Reader) machine.Command {
	shell := "exec sh"
	if sudo {
		shell = `s=; [ "$(id -u)" = 0 ] || s=1; exec ${s:+sudo} ${s:+-n} sh`
	}
	if line := shell + " -c " + machine.Quote(text); len(line) < maxLine && !hidden {
		return machine.Command{Line: line, Stdin: stdin}
	}
	return machine.Command{Line: shell + " -s", Stdin: io.MultiReader(strings.NewReader(text), stdin)}
}

// An answer is what a section printed, or why it has none.
type answer struct {
	out, errOut []byte
	status      int
	err         error
	seconds     float64
	records     []record // in place of the streams, of a Windows machine
}

// grace is how long the script may take to end after its last marker. Only
// what a check left running behind it can hold it up.
const grace = 500 * time.Millisecond

// ask runs all sections in one round trip. There is one answer per section; the
// error says why the answers are not whole.
func ask(ctx context.Context, m machine.Machine, sections []section, sudo bool, maxOutput int64) ([]answer, error) {
	// A script that runs longer than all its parts together may has hung.
	limit := 30 * time.Second
	for _, s := range sections {
		limit += s.limit() + 3*time.Second
	}
	run, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	halves := [2]string{rand.Text(), rand.Text()} // 130 bits each
	var left, ends atomic.Int64
	left.Store(maxOutput)
	allow := func(n int) bool {
		if left.Add(-int64(n)) >= 0 {
			return true
		}
		cancel()
		return false
	}
	stdin, orders := io.Pipe()
	defer orders.Close()
	done := func() {
		if ends.Add(1) == 2 {
			orders.Close()
			time.AfterFunc(grace, cancel)
		}
	}
	token := halves[0] + halves[1]
	stdout, stderr := newFrames(token, len(sections), allow, done), newFrames(token, len(sections), allow, done)
	overdue := make([]atomic.Bool, len(sections))
	stdout.begun = func(i int, pid string) (ended func()) {
		t := time.AfterFunc(sections[i].limit(), func() {
			overdue[i].Store(true)
			_, _ = io.WriteString(orders, pid+"\n") // fails once all have ended
		})
		return func() { t.Stop() }
	}
	hidden := slices.ContainsFunc(sections, func(s section) bool { return s.kind.hidden })
	c := command(script(sections, halves), sudo, hidden, stdin)
	c.Stdout, c.Stderr = stdout, stderr
	err := m.Run(run, c)

	outs, outErr := stdout.result()
	errs, errErr := stderr.result()
	switch {
	case outErr == nil && errErr == nil:
		err = nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case left.Load() < 0:
		err = fmt.Errorf("the machine printed more than %d bytes", maxOutput)
	case run.Err() != nil:
		err = fmt.Errorf("the checks did not end within %s", limit)
	default:
		why := errors.Join(outErr, errErr)
		if outErr == nil {
			why = fmt.Errorf("the error output did not come apart from the output: %w", errErr)
		}
		if said := stderr.preamble(); said != "" {
			why = fmt.Errorf("%w; it said: %s", why, Clean(said))
		}
		if err != nil {
			why = fmt.Errorf("%w (%w)", why, err)
		}
		err = why
	}
	answers := make([]answer, len(sections))
	for i := range answers {
		a := &answers[i]
		if i >= len(outs) || i >= len(errs) {
			a.err = fmt.Errorf("no answer: %w", err)
			continue
		}
		a.out, a.errOut, a.status = outs[i].data, errs[i].data, outs[i].status
		a.seconds = outs[i].ended.Sub(outs[i].began).Seconds()
		switch {
		case outs[i].status != errs[i].status:
			a.err = errors.New("the two streams give different exit statuses")
		case a.status < 0 || a.status == 137 && overdue[i].Load():
			a.err = fmt.Errorf("it did not end within %s, or was killed", sections[i].limit())
		}
	}
	return answers, err
}
