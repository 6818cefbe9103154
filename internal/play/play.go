// Package play reads what ansible-playbook prints: what came of each host, and
// which tasks failed, where and why. The provisioners ansible and ansible-local
// share it.
package play

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/script"
)

// Host is one host's line of the recap.
type Host struct {
	Name        string `json:"host"`
	OK          int    `json:"ok"`
	Changed     int    `json:"changed"`
	Unreachable int    `json:"unreachable"`
	Failed      int    `json:"failed"`
}

func (h Host) String() string {
	return fmt.Sprintf("%s: ok=%d changed=%d unreachable=%d failed=%d", h.Name, h.OK, h.Changed, h.Unreachable, h.Failed)
}

// Failure is a task that failed on a host, or a host that a task did not reach.
type Failure struct {
	Host, Task string
	// Where is the task's file and line; empty when ansible did not say.
	Where   string
	Message string
}

// Vars make ansible-playbook print what a Reader reads: the place of a task
// that fails, each line when it is written, and no colours.
func Vars() map[string]string {
	return map[string]string{"ANSIBLE_SHOW_TASK_PATH_ON_FAILURE": "True", "PYTHONUNBUFFERED": "1", "ANSIBLE_NOCOLOR": "True"}
}

// Reader passes events on and reads the output among them. What it reads was
// in part printed by the machine, and is hostile: a recap counts only when
// nothing of a play follows it.
type Reader struct {
	// Dir is left out of the places of tasks.
	Dir  string
	tail script.Tail

	mu       sync.Mutex
	recap    []Host
	recapped bool // the recap's heading was the last heading
	inRecap  bool
	task     string
	taskNo   int
	where    string
	failures []failure
	open     bool // the last failure's message goes on
	last     bool // no other result has come since
	section  string
	errors   []string
}

type failure struct {
	Failure
	taskNo int
	text   string
	said   string // in sections below
}

// NewReader returns a Reader that passes everything on to next.
func NewReader(next event.Sink) *Reader { return &Reader{tail: script.Tail{Next: next}} }

// Emit implements event.Sink.
func (r *Reader) Emit(e event.Event) {
	if e.Kind == event.Output {
		r.mu.Lock()
		r.line(Plain(e.Text))
		r.mu.Unlock()
	}
	r.tail.Emit(e)
}

const (
	most     = 1000     // hosts and failures; more are counted by nobody
	mostText = 64 << 10 // of one failure's message
)

var (
	heading = regexp.MustCompile(`^(PLAY|TASK|RUNNING HANDLER|CLEANUP TASK|PLAY RECAP)(?: \[(.*)\])? \*+$`)
	host    = regexp.MustCompile(`^(\S+)\s+: ok=(\d{1,9})\s+changed=(\d{1,9})\s+unreachable=(\d{1,9})\s+failed=(\d{1,9})(?:\s+[a-z]+=\d+)*\s*$`)
	// What else a task can come to, which ends what is said of the one before.
	fine = regexp.MustCompile(`^(?:ok|changed|skipping|included): `)
	// The callback "debug" has these below a result, each with text of its own.
	section = regexp.MustCompile(`^(MSG|STDOUT|STDERR|MODULE_STDOUT|MODULE_STDERR):$`)
	result  = regexp.MustCompile(`^(?:fatal|failed): \[([^\]]+)\](?: \(item=(.*)\))?(?:: (FAILED|UNREACHABLE)!)? => ?(.*)$`)
)

func (r *Reader) line(s string) {
	if r.open {
		f := &r.failures[len(r.failures)-1]
		if s != "" && strings.ContainsRune(" \t}", rune(s[0])) {
			if len(f.text) < mostText {
				f.text += "\n" + s
			}
			return
		}
		r.open = false
	}
	if m := section.FindStringSubmatch(s); m != nil && r.last {
		r.section = m[1]
		return
	}
	if m := heading.FindStringSubmatch(s); m != nil {
		r.last, r.section = false, ""
		r.inRecap, r.recapped = m[1] == "PLAY RECAP", m[1] == "PLAY RECAP"
		r.recap = nil
		if m[1] != "PLAY" && m[1] != "PLAY RECAP" {
			r.task, r.where = m[2], ""
			r.taskNo++
		}
		return
	}
	if r.inRecap {
		if m := host.FindStringSubmatch(s); m != nil && len(r.recap) < most {
			h := Host{Name: m[1]}
			for i, n := range []*int{&h.OK, &h.Changed, &h.Unreachable, &h.Failed} {
				*n, _ = strconv.Atoi(m[i+2]) // nine digits always fit
			}
			r.recap = append(r.recap, h)
			return
		}
		r.inRecap = s == ""
		return
	}
	if place, ok := strings.CutPrefix(s, "task path: "); ok {
		r.where = strings.TrimPrefix(place, r.Dir)
		return
	}
	if m := result.FindStringSubmatch(s); m != nil && len(r.failures) < most {
		name, _, _ := strings.Cut(m[1], " -> ") // delegated
		f := failure{Failure: Failure{Host: name, Task: r.task, Where: r.where}, taskNo: r.taskNo, text: m[4]}
		if m[3] == "UNREACHABLE" {
			f.Message = "the host was not reached: "
		} else if m[2] != "" {
			f.Message = "item " + short(m[2]) + ": "
		}
		r.failures = append(r.failures, f)
		r.open, r.last, r.section = true, true, ""
		return
	}
	if s == "...ignoring" && len(r.failures) > 0 {
		last := r.failures[len(r.failures)-1]
		r.last, r.section = false, ""
		r.failures = slices.DeleteFunc(r.failures, func(f failure) bool { return f.Host == last.Host && f.taskNo == last.taskNo })
		return
	}
	if fine.MatchString(s) {
		r.last, r.section = false, ""
	}
	if f := len(r.failures) - 1; r.section != "" && r.section != "STDOUT" && s != "" && len(r.failures[f].said) < mostShown {
		r.failures[f].said += ": " + s
	}
	for _, prefix := range []string{"ERROR! ", "[ERROR]: "} {
		if text, ok := strings.CutPrefix(s, prefix); ok && len(r.errors) < 5 {
			r.errors = append(r.errors, text)
		}
	}
}

// Recap is what came of each host. It is not known when the output did not end
// with a recap, or when the recap names no host.
func (r *Reader) Recap() (hosts []Host, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.recap), r.recapped && len(r.recap) > 0
}

// Changes is the number of changed tasks on all hosts.
func (r *Reader) Changes() (n int, known bool) {
	hosts, known := r.Recap()
	for _, h := range hosts {
		n += h.Changed
	}
	return n, known
}

// Failures are the tasks that made the run fail: neither ignored nor, as far
// as the recap tells, rescued.
func (r *Reader) Failures() []Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := map[string]int{}
	for _, h := range r.recap {
		left[h.Name] = h.Failed + h.Unreachable
	}
	var out []Failure
	last := map[string]int{} // the task that was counted last, by host
	for _, f := range slices.Backward(r.failures) {
		if n, ok := left[f.Host]; ok && last[f.Host] != f.taskNo {
			if n == 0 {
				continue
			}
			left[f.Host]--
		}
		last[f.Host] = f.taskNo
		f.Message += message(f.text) + short(f.said)
		out = append(out, f.Failure)
	}
	slices.Reverse(out)
	return out
}

// Report says the recap as one message.
func (r *Reader) Report(to event.Scope) {
	hosts, known := r.Recap()
	if !known {
		return
	}
	var text []string
	for _, h := range hosts {
		text = append(text, h.String())
	}
	to.Emit(event.Event{Kind: event.Message, Text: "Play recap: " + strings.Join(text, "; "), Data: map[string]any{"recap": hosts}})
}

// Error is the error of what, which ended with a status other than 0.
func (r *Reader) Error(what string, status int) error {
	text := fmt.Sprintf("%s ended with exit status %d", what, status)
	failures := r.Failures()
	r.mu.Lock()
	errs := slices.Clone(r.errors)
	r.mu.Unlock()
	for i, f := range failures {
		if i == 10 {
			text += fmt.Sprintf("\n    and %d more", len(failures)-i)
			break
		}
		text += "\n    " + f.Host
		if f.Task != "" {
			text += fmt.Sprintf(": task %q", f.Task)
		}
		if f.Where != "" {
			text += " (" + f.Where + ")"
		}
		text += ": " + f.Message
	}
	for _, e := range errs {
		text += "\n    " + short(e)
	}
	if len(failures) == 0 {
		text += r.tail.String()
	}
	return fmt.Errorf("%s", text)
}

// message is what a task's result says.
func message(text string) string {
	var v struct {
		Msg          any    `json:"msg"`
		Reason       string `json:"reason"`
		Stderr       string `json:"stderr"`
		Stdout       string `json:"stdout"`
		ModuleStderr string `json:"module_stderr"`
		ModuleStdout string `json:"module_stdout"`
		RC           any    `json:"rc"`
	}
	// A result that is cut short, or not in JSON, is shown as it is.
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return short(strings.TrimSpace(text))
	}
	out := v.Reason
	switch msg := v.Msg.(type) {
	case nil:
	case string:
		out = strings.TrimSpace(msg)
	default:
		b, err := json.Marshal(msg)
		if err != nil {
			b = []byte(fmt.Sprint(msg))
		}
		out = string(b)
	}
	if out == "" {
		out = "failed"
	}
	if rc, ok := v.RC.(float64); ok && rc != 0 {
		out = fmt.Sprintf("%s (rc %v)", out, rc)
	}
	for _, more := range []string{v.Stderr, v.ModuleStderr, v.Stdout, v.ModuleStdout} {
		if more = strings.TrimSpace(more); more != "" {
			if !strings.Contains(out, more) {
				out += ": " + end(more)
			}
			break
		}
	}
	return short(Plain(out))
}

const mostShown = 2000

func short(s string) string {
	if len(s) > mostShown {
		s = strings.ToValidUTF8(s[:mostShown], "") + " …"
	}
	return s
}

// end is the last lines of s: that is where programs say what went wrong.
func end(s string) string {
	if len(s) > mostShown/2 {
		s = "… " + strings.ToValidUTF8(s[len(s)-mostShown/2:], "")
	}
	return s
}

var escape = regexp.MustCompile(`\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])`)

// Plain is s without terminal sequences and control characters; line ends and tabs stay.
func Plain(s string) string {
	s = escape.ReplaceAllString(s, "")
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\n' && c != '\t' || c >= 0x7f && c < 0xa0 {
			return -1
		}
		return c
	}, s)
}

var (
	plainName      = regexp.MustCompile(`^[^\s\[\]#,'"=\\\x00-\x1f]+$`)
	rolesKey       = regexp.MustCompile(`(?m)^roles\s*:`)
	collectionsKey = regexp.MustCompile(`(?m)^collections\s*:`)
)

// CheckName says whether a name can stand in a generated inventory as it is.
func CheckName(name string) error {
	if !plainName.MatchString(name) {
		return fmt.Errorf(`%q cannot be a name in an inventory: it is empty, or has a space or one of []#,'"=\ in it`, name)
	}
	return nil
}

// GalaxyHas says what a requirements file asks for. The oldest form, a plain
// list, is one of roles.
func GalaxyHas(text []byte) (roles, collections bool) {
	collections = collectionsKey.Match(text)
	return rolesKey.Match(text) || !collections, collections
}
