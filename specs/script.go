package specs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

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

// prelude defines x ID SECONDS SCRIPT sh ARGS…, which runs one section, and
// y FIRST LAST SECONDS SCRIPT SUBJECTS…, which runs one for each subject in one
// process; what it had no time for is not begun. A section that was ended by
// its time (no status: "-") is told from one that exits with 137 by the
// kernel's clock, as far as there is one. Busybox's timeout is not used: what
// it leaves behind holds the output open for up to a second. The two halves of
// the token are swapped here, so that a command that prints its parents'
// command lines does not print a marker.
const prelude = `PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin${PATH:+:$PATH}
LC_ALL=C
export PATH LC_ALL
N=$n
n=${n#*/}${n%%/*}
watch() {
	t=$1; shift
	$G "$@" & p=$!
	{ sleep "$t" 2>/dev/null || sleep "$((${t%.*} + 1))"; kill -s KILL -- "$m$p"; } >/dev/null 2>&1 & w=$!
	wait "$p" 2>/dev/null; k=$?
	kill "$w" 2>/dev/null
	return "$k"
}
T=watch G= m=
case $(timeout --version 2>/dev/null) in
*coreutils*) T='timeout -s KILL';;
*) if command -v setsid >/dev/null; then G=setsid m=-; fi;;
esac
clock() { c=; { read -r c _ </proc/uptime; } 2>/dev/null; c=${c%%.*}; }
x() {
	i=$1 s=$2; shift 2
	printf '\n%s B %s\n' "$n" "$i"; printf '\n%s B %s\n' "$n" "$i" >&2
	clock; u=$c
	$T "$s" sh -c "$@" </dev/null; r=$?
	if [ "$r" = 137 ]; then
		clock
		[ -n "$u" ] && [ -n "$c" ] && [ "$((c-u))" -lt "${s%.*}" ] || r=-
	fi
	printf '\n%s E %s %s\n' "$n" "$i" "$r"; printf '\n%s E %s %s\n' "$n" "$i" "$r" >&2
}
y() {
	i=$1 l=$2 s=$3; shift 3
	$T "$s" sh -c 'n=$1 i=$2 q=$3; shift 3
n=${n#*/}${n%%/*}
for a; do
	printf "\n%s B %s\n" "$n" "$i"; printf "\n%s B %s\n" "$n" "$i" >&2
	(set -- "$a"; eval "$q"); r=$?
	printf "\n%s E %s %s\n" "$n" "$i" "$r"; printf "\n%s E %s %s\n" "$n" "$i" "$r" >&2
	i=$((i+1))
done' sh "$N" "$i" "$@" </dev/null
	printf '\n%s X %s\n' "$n" "$l"; printf '\n%s X %s\n' "$n" "$l" >&2
}
`

// alike is how many sections from the first on ask the same of one subject
// each, in words of ours: they need no shell of their own.
func alike(sections []section) int {
	first := sections[0]
	for n, s := range sections {
		if s.kind != first.kind || !s.kind.each || s.kind.hidden || s.kind.script == "" || len(s.subjects) != 1 || strings.Contains(s.subjects[0], "\x00") {
			return n
		}
	}
	return len(sections)
}

// script writes the whole script for one round trip. Together says that
// sections that are alike share a process.
func script(sections []section, halves [2]string, together bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "n=%s/%s\n%s", halves[1], halves[0], prelude)
	for i := 0; i < len(sections); i++ {
		s := sections[i]
		s.timeout += more(len(s.subjects))
		if n := alike(sections[i:]); n > 1 && together {
			words, limit := []string{s.kind.script}, s.timeout
			for _, s := range sections[i : i+n] {
				words = append(words, s.subjects[0])
				limit = max(limit, s.timeout)
			}
			fmt.Fprintf(&b, "y %d %d %d %s\n", i, i+n-1, seconds(limit+more(n)), machine.Quote(words...))
			i += n - 1
			continue
		}
		words := []string{s.kind.script, "sh"}
		for _, subject := range s.subjects {
			words = append(words, strings.Split(subject, "\x00")...)
		}
		if s.kind.script == "" {
			words = []string{s.subjects[0], "sh"}
		}
		if s.kind.hidden {
			words = words[:2]
			fmt.Fprintf(&b, "I=%s; export I\n", machine.Quote(s.subjects[0]))
		}
		fmt.Fprintf(&b, "x %d %s %s\n", i, strconv.FormatFloat(s.timeout.Seconds(), 'f', -1, 64), machine.Quote(words...))
		if s.kind.hidden {
			b.WriteString("unset I\n")
		}
	}
	fmt.Fprintf(&b, "printf '\\n%%s END %d\\n' \"$n\"; printf '\\n%%s END %d\\n' \"$n\" >&2\nexit 0\n", len(sections), len(sections))
	return b.String()
}

// more is the time beyond that for one answer that a process has for many.
func more(subjects int) time.Duration { return time.Duration(subjects/10) * time.Second / 2 }

func seconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }

// command makes a command of a script. The machine's login shell may be any;
// sh reads the script, as root where sudo is asked for and it is not root yet.
// Hidden says that the script must not be on a command line.
func command(text string, sudo, hidden bool) machine.Command {
	shell := "exec sh"
	if sudo {
		shell = `s=; [ "$(id -u)" = 0 ] || s=1; exec ${s:+sudo} ${s:+-n} sh`
	}
	if line := shell + " -c " + machine.Quote(text); len(line) < maxLine && !hidden {
		return machine.Command{Line: line}
	}
	return machine.Command{Line: shell + " -s", Stdin: strings.NewReader(text)}
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

// errUnreached is the error of a section that shared a process with one that
// took all their time.
var errUnreached = errors.New("its turn never came")

// ask runs all sections in one round trip, and in a second one those that
// others left no time for. There is one answer per section; the error says why
// the answers are not whole.
func ask(ctx context.Context, m machine.Machine, sections []section, sudo bool, maxOutput int64) (answers []answer, trips int, err error) {
	answers, err = askOnce(ctx, m, sections, sudo, maxOutput, true)
	var again []section
	var of []int
	for i, a := range answers {
		if a.err == errUnreached {
			again, of = append(again, sections[i]), append(of, i)
		}
	}
	if err != nil || len(again) == 0 {
		return answers, 1, err
	}
	more, err := askOnce(ctx, m, again, sudo, maxOutput, false)
	for n, i := range of {
		answers[i] = more[n]
	}
	return answers, 2, err
}

func askOnce(ctx context.Context, m machine.Machine, sections []section, sudo bool, maxOutput int64, together bool) ([]answer, error) {
	// A script that runs longer than all its parts together may has hung.
	limit := 30 * time.Second
	for _, s := range sections {
		limit += s.timeout + more(len(s.subjects)) + 3*time.Second
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
	done := func() {
		if ends.Add(1) == 2 {
			time.AfterFunc(grace, cancel)
		}
	}
	token := halves[0] + halves[1]
	stdout, stderr := newFrames(token, len(sections), allow, done), newFrames(token, len(sections), allow, done)
	hidden := slices.ContainsFunc(sections, func(s section) bool { return s.kind.hidden })
	c := command(script(sections, halves, together), sudo, hidden)
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
		case min(outs[i].status, errs[i].status) == notBegun && max(outs[i].status, errs[i].status) < 0:
			a.err = errUnreached
		case outs[i].status != errs[i].status:
			a.err = errors.New("the two streams give different exit statuses")
		case a.status < 0:
			a.err = fmt.Errorf("it did not end within %s, or was killed", sections[i].timeout)
		}
	}
	return answers, err
}
