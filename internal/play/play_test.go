package play

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/ingotbuild/ingot/internal/event"
)

func read(text string) *Reader {
	r := NewReader(nil)
	r.Dir = "/tmp/stage/"
	for line := range strings.Lines(text) {
		r.Emit(event.Event{Kind: event.Output, Stream: "stdout", Text: strings.TrimSuffix(line, "\n")})
	}
	return r
}

const stars = " *********************"

// failed is what ansible-playbook 2.14 printed, shortened.
const failed = `
PLAY [all]` + stars + `

TASK [ok one]` + stars + `
changed: [web]

TASK [ign]` + stars + `
task path: /tmp/stage/p.yml:6
fatal: [web]: FAILED! => {"changed": true, "cmd": ["false"], "msg": "non-zero return code", "rc": 1, "stderr": "", "stdout": ""}
...ignoring

TASK [loop]` + stars + `
changed: [web] => (item=true)
failed: [web] (item=false) => {"item": "false", "msg": "non-zero return code", "rc": 1}
failed: [web] (item=no) => {"item": "no", "msg": "non-zero return code", "rc": 1}
...ignoring

TASK [in block]` + stars + `
task path: /tmp/stage/p.yml:14
fatal: [web]: FAILED! => {"msg": "non-zero return code", "rc": 1}

TASK [debug]` + stars + `
ok: [web] => {
    "msg": "rescued"
}

TASK [the [bad] one]` + stars + `
task path: /tmp/stage/p.yml:18
fatal: [web -> localhost]: FAILED! => {"msg": "non-zero return code", "rc": 3, "stderr": "err\u001b[31mred", "stdout": "out"}
fatal: [db]: UNREACHABLE! => {"changed": false, "msg": "Failed to connect to the host via ssh: ssh: connect to host 10.0.0.9 port 22: No route to host", "unreachable": true}

PLAY RECAP` + stars + `
db                         : ok=0    changed=0    unreachable=1    failed=0    skipped=0    rescued=0    ignored=0   
web                        : ok=4    changed=3    unreachable=0    failed=1    skipped=0    rescued=1    ignored=2   

`

func TestFailures(t *testing.T) {
	for name, colour := range map[string]func(string) string{
		"plain": func(s string) string { return s },
		"coloured": func(s string) string {
			return "\x1b[0;31m" + strings.ReplaceAll(s, "\n", "\x1b[0m\n\x1b[0;31m") + "\x1b[0m"
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := read(colour(failed))
			err := r.Error("ansible-playbook", 2).Error()
			want := "ansible-playbook ended with exit status 2" +
				"\n    web: task \"the [bad] one\" (p.yml:18): non-zero return code (rc 3): errred" +
				"\n    db: task \"the [bad] one\" (p.yml:18): the host was not reached: Failed to connect to the host via ssh: ssh: connect to host 10.0.0.9 port 22: No route to host"
			if err != want {
				t.Errorf("error %q\nwant  %q", err, want)
			}
			if n, known := r.Changes(); n != 3 || !known {
				t.Errorf("changes %d, %v", n, known)
			}
			var said string
			r.Report(event.Scope{Sink: event.Func(func(e event.Event) { said += e.Text })})
			if want := "Play recap: db: ok=0 changed=0 unreachable=1 failed=0; web: ok=4 changed=3 unreachable=0 failed=1"; said != want {
				t.Errorf("said %q, want %q", said, want)
			}
		})
	}
}

func TestMessages(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"json over lines": {"fatal: [h]: FAILED! => {\n    \"msg\": \"a\",\n    \"rc\": 2\n}\n", "a (rc 2)"},
		"yaml":            {"fatal: [h]: FAILED! => \n    changed: true\n    msg: broken\n", "changed: true\n    msg: broken"},
		"a list":          {`fatal: [h]: FAILED! => {"msg": ["a", 1]}`, `["a",1]`},
		"nothing":         {`fatal: [h]: FAILED! => {}`, "failed"},
		"module failure":  {`fatal: [h]: FAILED! => {"msg": "MODULE FAILURE", "module_stderr": "no python"}`, "MODULE FAILURE: no python"},
		"cut short":       {`fatal: [h]: FAILED! => {"msg": "a`, `{"msg": "a`},
		"debug callback":  {"fatal: [h]: FAILED! => {\n    \"rc\": 2\n}\n\nSTDOUT:\n\nout\n\n\nSTDERR:\n\nno\nspace\n\n\nMSG:\n\nnon-zero\nok: [h2]\nx", "failed (rc 2): no: space: non-zero"},
		"parse":           {`fatal: [h]: FAILED! => {"reason": "conflicting action"}`, "conflicting action"},
		"item":            {`failed: [h] (item={'a': 1}) => {"msg": "m"}`, "item {'a': 1}: m"},
	} {
		f := read(tc.in).Failures()
		if len(f) != 1 || f[0].Message != tc.want || f[0].Host != "h" {
			t.Errorf("%s: %+v, want %q", name, f, tc.want)
		}
	}
}

func TestErrorsWithoutATask(t *testing.T) {
	err := read("ERROR! Attempting to decrypt but no vault secrets found\nx\n").Error("ansible-playbook", 1).Error()
	if want := "ansible-playbook ended with exit status 1\n    Attempting to decrypt but no vault secrets found; its last lines were:\n    ERROR! Attempting to decrypt but no vault secrets found\n    x"; err != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestRecaps(t *testing.T) {
	good := "PLAY RECAP" + stars + "\nh                : ok=1    changed=2    unreachable=0    failed=0\n"
	for name, tc := range map[string]struct {
		in    string
		n     int
		known bool
	}{
		"good":                        {good, 2, true},
		"short":                       {"PLAY RECAP ***\n::1 : ok=1 changed=4 unreachable=0 failed=0 skipped=1 rescued=0 ignored=0\n", 4, true},
		"none":                        {"TASK [x] ***\nok: [h]\n", 0, false},
		"without hosts":               {"PLAY RECAP ***\n\n", 0, false},
		"cut short":                   {"PLAY RECAP ***\nh : ok=1 changed=", 0, false},
		"two":                         {good + "PLAY RECAP ***\nh : ok=1 changed=0 unreachable=0 failed=0\n", 0, true},
		"a machine prints one":        {"PLAY RECAP ***\nh : ok=1 changed=0 unreachable=0 failed=0\n\nTASK [y] ***\nok: [h]\n" + good, 2, true},
		"and the end is missing":      {good + "\nTASK [y] ***\n", 0, false},
		"other callbacks print after": {good + "\nPlaybook run took 0 days\n x : ok=1 changed=9 unreachable=0 failed=0\n", 2, true},
		"a number too large":          {"PLAY RECAP ***\nh : ok=1 changed=99999999999999999999 unreachable=0 failed=0\n", 0, false},
	} {
		if n, known := read(tc.in).Changes(); n != tc.n || known != tc.known {
			t.Errorf("%s: %d, %v, want %d, %v", name, n, known, tc.n, tc.known)
		}
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"a\x1b[31;1mb\x1b[0m":             "ab",
		"\x1b]0;title\x07x":               "x",
		"\x1b]8;;http://x\x1b\\link":      "link",
		"a\r\x00\x08b\u009b31mc\td\n\x7f": "ab31mc\td\n",
		"\x1b":                            "",
	} {
		if got := Plain(in); got != want {
			t.Errorf("Plain(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestGalaxyHas(t *testing.T) {
	for text, want := range map[string][2]bool{
		"- src: x\n":                        {true, false},
		"roles:\n- x\n":                     {true, false},
		"---\ncollections:\n- x\n":          {false, true},
		"collections: []\nroles :\n  - x\n": {true, true},
		"":                                  {true, false},
	} {
		if r, c := GalaxyHas([]byte(text)); [2]bool{r, c} != want {
			t.Errorf("%q: %v, %v", text, r, c)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(failed)
	f.Add("PLAY RECAP ***\nh : ok=1 changed=2 unreachable=0 failed=0\n")
	f.Add("fatal: [h]: FAILED! => {\n \"msg\": {\"a\": [1]}}\n...ignoring\nfatal: [h]: UNREACHABLE! => \x1b[3")
	f.Fuzz(func(t *testing.T, text string) {
		r := read(text)
		err := r.Error("x", 1).Error()
		for _, fl := range r.Failures() {
			if strings.ContainsAny(fl.Message+fl.Task+fl.Host, "\x1b\x00\r\x07") {
				t.Fatalf("control characters in %+v", fl)
			}
			if len(fl.Message) > 3*mostShown {
				t.Fatalf("a message of %d bytes", len(fl.Message))
			}
		}
		if utf8.ValidString(text) && !utf8.ValidString(err) {
			t.Fatalf("the error is no text: %q", err)
		}
		n, known := r.Changes()
		if n < 0 || known && !strings.Contains(text, "ok=") {
			t.Fatalf("%d changes, %v", n, known)
		}
	})
}
