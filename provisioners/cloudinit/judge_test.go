package cloudinit

import (
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// What cloud-init 22.4 (Debian 12) and 25.1 (Debian 13) have said, shortened.
const (
	error22 = `{"_schema_version": "1", "boot_status_code": "enabled-by-sysvinit", "datasource": "nocloud",
"detail": "('scripts_user', RuntimeError('Runparts: 1 failures (runcmd) in 1 attempted commands'))",
"errors": ["('scripts_user', RuntimeError('Runparts: 1 failures (runcmd) in 1 attempted commands'))"],
"schemas": {"1": {"status": "error"}}, "status": "error"}`
	done22    = `{"boot_status_code": "enabled-by-sysvinit", "datasource": "nocloud", "detail": "DataSourceNoCloud [seed=/var/lib/cloud/seed/nocloud][dsmode=net]", "errors": [], "status": "done"}`
	notRun22  = `{"boot_status_code": "unknown", "datasource": "", "detail": "", "errors": [], "status": "not run"}`
	off22     = `{"boot_status_code": "disabled-by-generator", "detail": "Cloud-init disabled by cloud-init-generator", "errors": [], "status": "disabled"}`
	error25   = `{"status": "error", "extended_status": "error - done", "errors": ["('scripts_user', RuntimeError('Runparts: 1 failures (runcmd) in 1 attempted commands'))"], "recoverable_errors": {"WARNING": ["Failed to run module scripts_user", "Failed to run module scripts_user"]}}`
	degraded  = `{"status": "done", "extended_status": "degraded done", "errors": [], "recoverable_errors": {"WARNING": ["Unhandled non-multipart (text/x-not-multipart) userdata: 'b'nonsense...''"]}}`
	outOfDate = `{"status": "done", "extended_status": "degraded done", "errors": [], "recoverable_errors": {"DEPRECATED": ["The chpasswd multiline string is deprecated."]}}`
	running   = `{"status": "running", "extended_status": "running", "errors": [], "recoverable_errors": {}}`
	result    = `{"v1": {"datasource": "DataSourceNone", "errors": []}}`
	resultBad = `{"v1": {"datasource": "DataSourceEc2", "errors": ["('package_update_upgrade_install', ProcessExecutionError())"]}}`
	// Of versions whose status cannot be had as JSON.
	longError = "status: error\ntime: Thu, 01 Jan 1970 00:00:10 +0000\ndetail:\n('scripts-user', RuntimeError('1 failed'))\n"
	longDone  = "status: done\ntime: Thu, 01 Jan 1970 00:00:10 +0000\ndetail:\nDataSourceEc2\n"
)

func TestJudge(t *testing.T) {
	for name, tc := range map[string]struct {
		a         answer
		o         func(*Options)
		note, err string // what it holds; empty: none
	}{
		"done":                      {a: answer{known: true, json: []byte(done22), result: []byte(result)}},
		"failed":                    {a: answer{known: true, code: 1, json: []byte(error22), log: []string{"broken"}}, err: "has failed:\n    ('scripts_user', RuntimeError('Runparts: 1 failures (runcmd) in 1 attempted commands'))\nThe last lines of /var/log/cloud-init-output.log are:\n    broken"},
		"failed, with warnings":     {a: answer{known: true, code: 1, json: []byte(error25)}, err: "attempted commands'))\n    Failed to run module scripts_user"},
		"failure is not degraded":   {a: answer{known: true, code: 1, json: []byte(error25)}, o: func(o *Options) { o.AcceptDegraded = true }, err: "has failed"},
		"degraded":                  {a: answer{known: true, code: 2, json: []byte(degraded)}, err: "recoverable errors:\n    Unhandled non-multipart"},
		"degraded is accepted":      {a: answer{known: true, code: 2, json: []byte(degraded)}, o: func(o *Options) { o.AcceptDegraded = true }, note: "recoverable errors:\n    Unhandled non-multipart"},
		"2 without a reason":        {a: answer{known: true, code: 2, json: []byte(done22)}, err: "recoverable errors"},
		"deprecated":                {a: answer{known: true, code: 2, json: []byte(outOfDate)}, note: "deprecated:\n    The chpasswd"},
		"1 without a reason":        {a: answer{known: true, code: 1, json: []byte(done22)}, err: "has failed"},
		"3":                         {a: answer{known: true, code: 3, json: []byte(done22)}, err: "exit status 3"},
		"late":                      {a: answer{late: true, known: true, code: 143, json: []byte(running)}, err: `not done within wait_timeout (10m0s); its status is "running"`},
		"late, never run":           {a: answer{late: true, known: true, code: 143, json: []byte(notRun22)}, err: `its status is "not run"`},
		"done at the last moment":   {a: answer{late: true, known: true, code: 143, json: []byte(done22)}, err: "not done within"},
		"says nothing":              {a: answer{known: true}, err: `its status is ""`},
		"says no JSON":              {a: answer{known: true, json: []byte("Traceback")}, err: "cannot be read"},
		"result is no JSON":         {a: answer{known: true, json: []byte(done22), result: []byte("{")}, err: "result.json cannot be read"},
		"still running":             {a: answer{known: true, json: []byte(running)}, err: "does not say that it is done"},
		"absent":                    {a: answer{absent: true}, err: "not installed on this machine; set required = false"},
		"absent is accepted":        {a: answer{absent: true}, o: func(o *Options) { o.Required = false }, note: "not installed on this machine; there is nothing to wait for"},
		"disabled":                  {a: answer{known: true, json: []byte(off22)}, err: "disabled on this machine (Cloud-init disabled by cloud-init-generator)"},
		"disabled is accepted":      {a: answer{known: true, json: []byte(off22)}, o: func(o *Options) { o.Required = false }, note: "disabled on this machine"},
		"without JSON":              {a: answer{known: true, long: []byte(longDone), result: []byte(result)}},
		"without JSON, failed":      {a: answer{known: true, code: 1, long: []byte(longError)}, err: "has failed:\n    ('scripts-user', RuntimeError('1 failed'))"},
		"without status":            {a: answer{result: []byte(result)}},
		"without status, failed":    {a: answer{result: []byte(resultBad)}, err: "has failed:\n    ('package_update_upgrade_install', ProcessExecutionError())"},
		"without status, late":      {a: answer{late: true}, err: "not done within"},
		"without status, disabled":  {a: answer{long: []byte("status: disabled\n")}, err: "cloud-init is disabled"},
		"the result knows of worse": {a: answer{known: true, json: []byte(done22), result: []byte(resultBad)}, err: "package_update_upgrade_install"},
	} {
		t.Run(name, func(t *testing.T) {
			p := New()
			if tc.o != nil {
				tc.o(&p.o)
			}
			v, err := p.o.judge(&tc.a)
			if tc.note == "" && tc.err == "" {
				tc.note = "cloud-init is done"
			}
			if (v.text == "") != (tc.note == "") || !strings.Contains(v.text, tc.note) || v.warn != (strings.Contains(tc.note, ":")) {
				t.Errorf("verdict %+v, want %q", v, tc.note)
			}
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want %q", err, tc.err)
			}
		})
	}
}

// A machine may say anything, and any amount of it.
func TestHostileOutput(t *testing.T) {
	a := &answer{token: "T", events: event.Scope{}}
	for range 3 {
		a.line("T json " + strings.Repeat("x", maxText/2))
	}
	for range 100 {
		a.line("T log x")
	}
	a.line("T log ubuntu:R4nd0mPassw0rdOf20ch")
	if got := a.output(); !strings.HasSuffix(got, "\n    ubuntu:(hidden)") {
		t.Errorf("a password is shown: %s", got)
	}
	for _, l := range []string{"T", "T ", "T code", "T code x", "U end", " T end", "T nonsense"} {
		a.line(l)
	}
	if len(a.json) > maxText || len(a.log) > 40 || a.known || a.ended {
		t.Errorf("%d bytes, %d lines, %v", len(a.json), len(a.log), a)
	}
}

func TestCheck(t *testing.T) {
	p := New()
	if problems := p.Check(t.Context(), &provisioners.Env{}); len(problems) > 0 {
		t.Error(problems)
	}
	for _, d := range []time.Duration{0, -time.Minute, 999 * time.Millisecond} {
		p.o.WaitTimeout = d
		if problems := p.Check(t.Context(), &provisioners.Env{}); len(problems) != 1 || problems[0].Option != "wait_timeout" {
			t.Errorf("%v: %v", d, problems)
		}
	}
	if err := New().Provision(t.Context(), &provisioners.Env{}, nil); err == nil || !strings.Contains(err.Error(), machine.ErrNone.Error()) {
		t.Errorf("without a machine: %v", err)
	}
}
