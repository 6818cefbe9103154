package report

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
)

func TestMachine(t *testing.T) {
	got := play(t, Options{Format: Machine, Color: true, Secrets: []string{"hunter2-hunter2"}}, story)
	if strings.Contains(got, "hunter2") || strings.Contains(got, "\x1b") {
		t.Errorf("a secret or an escape is in it:\n%s", got)
	}
	form := regexp.MustCompile(`^\d+,[^,]*,(ui,(say|message|error)|error-count|error|artifact-count|artifact,0,[a-z-]+)(,[^,]*)*$`)
	for line := range strings.SplitSeq(strings.TrimSuffix(got, "\n"), "\n") {
		if !form.MatchString(line) {
			t.Errorf("not a line for machines: %q", line)
		}
	}
	at := strings.SplitN(got, ",", 2)[0]
	for _, want := range []string{
		at + ",,ui,say,2 bakes to do\n",
		",,ui,message,==> web.null.a: the password is <sensitive>\n",
		",,ui,error,Build 'web.null.a' errored after ",
		",,error-count,1\n",
		`,web.null.a,error,exit status 1; its last lines were:\n    oh no` + "\n",
		",db.null.b,artifact-count,1\n",
		",db.null.b,artifact,0,id,Null\n",
		",db.null.b,artifact,0,string,made <sensitive>\n",
		",db.null.b,artifact,0,files-count,0\n",
		",db.null.b,artifact,0,end\n",
		",,ui,say,--> db.null.b: made <sensitive>\n",
		",,ui,say,==> web.null.a: [shell install] still running after ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in it:\n%s", want, got)
		}
	}
	if strings.Contains(got, "web.null.a,artifact") {
		t.Error("a bake that failed has an artifact")
	}
}

func TestMachineArtifactFiles(t *testing.T) {
	got := play(t, Options{Format: Machine, Secrets: []string{"hunter2"}}, func(r Reporter) {
		b := event.Scope{Sink: r, Bake: "a,b"}
		b.Emit(event.Event{Kind: event.BakeStarted})
		b.Emit(event.Event{Kind: event.BakeEnded, Data: &builders.Artifact{BuilderID: "x.y", ID: "i,d", Files: []string{"one", "hunter2/two"}}})
	})
	for _, want := range []string{
		",a%!(PACKER_COMMA)b,artifact,0,builder-id,x.y\n", ",artifact,0,id,i%!(PACKER_COMMA)d\n",
		",artifact,0,files-count,2\n", ",artifact,0,file,0,one\n", ",artifact,0,file,1,<sensitive>/two\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in it:\n%s", want, got)
		}
	}
}

func TestWriteMachine(t *testing.T) {
	var b strings.Builder
	if err := WriteMachine(&b, time.Unix(12, 0), "t", "c", "a,b", "x\r\ny", ""); err != nil {
		t.Fatal(err)
	}
	if want := "12,t,c,a%!(PACKER_COMMA)b,x\\r\\ny,\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
