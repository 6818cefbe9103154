package bake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/machine/local"
	"github.com/ingotbuild/ingot/registry"
)

// build wraps what a build block holds in a template with the source fake.a.
func build(source, body string) string {
	return fmt.Sprintf("source \"fake\" \"a\" {\n%s\n}\nbuild {\n  name    = \"web\"\n  sources = [\"fake.a\"]\n%s\n}\n", source, body)
}

const (
	doOne   = "provisioner \"do\" { say = \"one\" }\n"
	doTwo   = "provisioner \"do\" { say = \"two\" }\n"
	cleanUp = "error-cleanup-provisioner \"do\" { say = \"cleanup\" }\n"
)

func TestOneBake(t *testing.T) {
	w := newWorld(t)
	res := w.bake(build("guard = true", doOne+`
		provisioner "do" { say = "in ${build.ID}" }
		post-processor "make" {
			id   = "after ${build.ID}"
			keep = true
		}`), bake.Options{Rollouts: map[string]json.RawMessage{"web": json.RawMessage(`{"web":{"port":80}}`)}})
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	w.wrote(
		"create guard-a", "create disk-a", "create vm-a", "boot a", "do one", "do in vm-a", "snapshot a",
		"release vm-a", "release disk-a", "make after img-a of img-a",
	)
	if res.Name != "web.fake.a" || res.Version != "web@v1" || res.Artifact.ID != "img-a" || !strings.HasPrefix(res.Artifact.Text, "web@v1: ") {
		t.Errorf("result: %+v of %+v", res, res.Artifact)
	}
	// The guard is struck, not released: the image stays.
	if leases, resources := w.left(); len(leases) != 0 || !reflect.DeepEqual(resources, []string{"guard-a"}) {
		t.Errorf("left: leases %q, resources %q", leases, resources)
	}
	v := w.versions("web")[0]
	if v.Status != registry.StatusReady || v.Template != "t.pkr.hcl" || string(v.Rollout) != `{"web":{"port":80}}` {
		t.Errorf("version: %+v", v)
	}
	want := registry.Artifact{Platform: "fake", ExternalID: "img-a", Location: "shelf", BuilderID: "fake", Source: "fake.a"}
	want.BakeID = v.Artifacts[0].BakeID
	if len(v.Artifacts) != 1 || v.Artifacts[0] != want || want.BakeID == "" {
		t.Errorf("artifacts: %+v", v.Artifacts)
	}
}

func TestTries(t *testing.T) {
	wait := func(d time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			select {
			case <-time.After(d):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	tests := []struct {
		name, options string
		on            func(context.Context) error // what the step does
		broken        int                         // or how many tries fail
		tries         int
		took          time.Duration
		err           string // in the bake's error; empty: the bake succeeds
		says          string
	}{
		{name: "pause", options: `pause_before = "90s"`, tries: 1, took: 90 * time.Second, says: "pausing 1m30s"},
		{name: "the pause is not in the timeout", options: "pause_before = \"90s\"\ntimeout = \"10s\"", on: wait(9 * time.Second), tries: 1, took: 99 * time.Second},
		{name: "timeout", options: `timeout = "10s"`, on: wait(time.Hour), tries: 1, took: 10 * time.Second, err: "the step's timeout of 10s is over"},
		{name: "each try has the timeout and the pause", options: "pause_before = \"1s\"\ntimeout = \"10s\"\nmax_retries = 2", on: wait(time.Hour), tries: 3, took: 33 * time.Second, err: "the step's timeout of 10s is over"},
		{name: "retries", options: `max_retries = 2`, broken: 2, tries: 3, says: "try 2 of 3 failed: do it is broken"},
		{name: "too few retries", options: `max_retries = 2`, broken: 3, tries: 3, err: "do it is broken"},
		{name: "go on", options: `continue_on_error = true`, broken: 1, tries: 1, says: "the template says to go on: do it is broken"},
		{name: "go on after the retries", options: "continue_on_error = true\nmax_retries = 1", broken: 2, tries: 2, says: "try 1 of 2 failed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.fail("do it", test.broken)
			if test.on != nil {
				w.on["do it"] = test.on
			}
			plan := build("", "provisioner \"do\" {\nsay = \"it\"\n"+test.options+"\n}\n")
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				res := w.bake(plan, bake.Options{})
				if took := time.Since(start); took != test.took {
					t.Errorf("it took %s, want %s", took, test.took)
				}
				switch {
				case test.err == "" && res.Err != nil:
					t.Error(res.Err)
				case test.err != "" && (res.Err == nil || !strings.Contains(res.Err.Error(), test.err)):
					t.Errorf("error %v, want one with %q", res.Err, test.err)
				}
			})
			if n := strings.Count(strings.Join(w.diary, "\n"), "do it"); n != test.tries {
				t.Errorf("%d tries, want %d", n, test.tries)
			}
			if !strings.Contains(w.said(), test.says) {
				t.Errorf("said %q, want %q in it", w.said(), test.says)
			}
		})
	}
}

func TestOnError(t *testing.T) {
	boot := []string{"create disk-a", "create vm-a", "boot a"}
	release := []string{"release vm-a", "release disk-a"}
	tests := []struct {
		mode    bake.OnError
		broken  string
		want    []string // after the boot
		remains bool
	}{
		{mode: bake.OnErrorCleanup, broken: "do one", want: append([]string{"do one", "do cleanup"}, release...)},
		{mode: bake.OnErrorCleanup, broken: "snapshot a", want: append([]string{"do one", "do two", "snapshot a", "do cleanup"}, release...)},
		{mode: bake.OnErrorCleanup, broken: "boot a", want: release},
		{mode: bake.OnErrorAbort, broken: "do one", want: []string{"do one"}, remains: true},
		{mode: bake.OnErrorAbort, broken: "snapshot a", want: []string{"do one", "do two", "snapshot a"}, remains: true},
		{mode: bake.OnErrorAbort, broken: "boot a", remains: true},
		{mode: bake.OnErrorRunProvisioner, broken: "do two", want: []string{"do one", "do two", "do cleanup"}, remains: true},
		{mode: bake.OnErrorRunProvisioner, broken: "snapshot a", want: []string{"do one", "do two", "snapshot a", "do cleanup"}, remains: true},
		{mode: bake.OnErrorAsk, broken: "do one", want: append([]string{"do one", "do cleanup"}, release...)}, // nobody to ask
		{mode: "", broken: "do one", want: append([]string{"do one", "do cleanup"}, release...)},
	}
	for _, test := range tests {
		t.Run(string(test.mode)+" "+test.broken, func(t *testing.T) {
			w := newWorld(t)
			w.fail(test.broken, 1)
			res := w.bake(build("", doOne+doTwo+cleanUp+`post-processor "make" { id = "never" }`), bake.Options{OnError: test.mode})
			if res.Err == nil || !strings.Contains(res.Err.Error(), test.broken+" is broken") || res.Artifact != nil || res.Version != "" {
				t.Errorf("result: %+v", res)
			}
			w.wrote(append(boot[:3:3], test.want...)...)
			if vs := w.versions("web"); len(vs) > 0 {
				t.Errorf("recorded: %+v", vs)
			}
			if !test.remains {
				w.nothingLeft("failed")
				return
			}
			leases, resources := w.left()
			if !reflect.DeepEqual(leases, []string{"disk disk-a", "vm vm-a"}) || !reflect.DeepEqual(resources, []string{"disk-a", "vm-a"}) {
				t.Errorf("left: leases %q, resources %q", leases, resources)
			}
			if !strings.Contains(w.said(), "left for a look: vm vm-a (id-vm-a); `ingot sweep` gives it back") {
				t.Errorf("said: %s", w.said())
			}
		})
	}
	t.Run("a cleanup that fails is a warning", func(t *testing.T) {
		w := newWorld(t)
		w.fail("do one", 1)
		w.fail("do cleanup", 1)
		if res := w.bake(build("", doOne+cleanUp), bake.Options{}); res.Err == nil || res.Err.Error() != "do one is broken" {
			t.Errorf("error: %v", res.Err)
		}
		w.nothingLeft("failed")
		if !strings.Contains(w.said(), "error-cleanup-provisioner: do cleanup is broken") {
			t.Errorf("said: %s", w.said())
		}
	})
}

func TestAsk(t *testing.T) {
	boot := []string{"create disk-a", "create vm-a", "boot a"}
	tests := []struct {
		name    string
		answers []bake.Choice
		broken  int
		want    []string
		ok      bool
		remains bool
	}{
		{name: "cleanup", answers: []bake.Choice{bake.ChooseCleanup}, broken: 1, want: []string{"do one", "do cleanup", "release vm-a", "release disk-a"}},
		{name: "abort", answers: []bake.Choice{bake.ChooseAbort}, broken: 1, want: []string{"do one"}, remains: true},
		{name: "retry", answers: []bake.Choice{bake.ChooseRetry, bake.ChooseRetry}, broken: 2, ok: true,
			want: []string{"do one", "do one", "do one", "snapshot a", "release vm-a", "release disk-a"}},
		{name: "retry, then abort", answers: []bake.Choice{bake.ChooseRetry, bake.ChooseAbort}, broken: 3, remains: true, want: []string{"do one", "do one"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.fail("do one", test.broken)
			asked := 0
			res := w.bake(build("", doOne+cleanUp), bake.Options{OnError: bake.OnErrorAsk, Ask: func(_ context.Context, name, step string, err error) bake.Choice {
				if name != "web.fake.a" || step != "do" || err.Error() != "do one is broken" {
					t.Errorf("asked about %q, %q, %v", name, step, err)
				}
				asked++
				return test.answers[asked-1]
			}})
			if (res.Err == nil) != test.ok || asked != len(test.answers) {
				t.Errorf("error %v, asked %d times", res.Err, asked)
			}
			w.wrote(append(boot[:3:3], test.want...)...)
			if leases, _ := w.left(); (len(leases) > 0) != test.remains {
				t.Errorf("leases: %q", leases)
			}
		})
	}
}

// A cancelled bake gives everything back, whatever -on-error says, and without
// the error-cleanup-provisioner.
func TestCancel(t *testing.T) {
	template := build("guard = true", cleanUp+`provisioner "do" {
		say               = "one"
		continue_on_error = true
		max_retries       = 3
	}`)
	says := []struct {
		how string
		err func(ctx context.Context) error
	}{
		{"by its context", func(ctx context.Context) error { return ctx.Err() }},
		{"by its cause", func(ctx context.Context) error { return fmt.Errorf("stopped: %w", context.Cause(ctx)) }},
		{"in its words", func(context.Context) error { return errors.New("exit status 137") }},
	}
	modes := []bake.OnError{bake.OnErrorCleanup, bake.OnErrorAbort, bake.OnErrorRunProvisioner, bake.OnErrorAsk}
	for i, point := range []string{"create disk-a", "create vm-a", "boot a", "do one", "snapshot a"} {
		for j, mode := range modes {
			say := says[(i+j)%len(says)]
			t.Run(fmt.Sprint(point, " ", mode, " ", say.how), func(t *testing.T) {
				w := newWorld(t)
				ctx, cancel := context.WithCancelCause(context.Background())
				defer cancel(nil)
				w.on[point] = func(ctx context.Context) error {
					cancel(errors.New("somebody pressed a key"))
					return say.err(ctx)
				}
				ask := func(context.Context, string, string, error) bake.Choice {
					t.Error("asked after a cancel")
					return bake.ChooseAbort
				}
				res := w.run(ctx, template, bake.Options{OnError: mode, Ask: ask})[0]
				if res.Err == nil || !strings.HasPrefix(res.Err.Error(), "cancelled") {
					t.Errorf("error: %v", res.Err)
				}
				if strings.Contains(strings.Join(w.diary, "\n"), "cleanup") {
					t.Errorf("the diary is %q", w.diary)
				}
				w.nothingLeft("cancelled")
			})
		}
	}
	t.Run("before its turn", func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(context.Background())
		w.on["boot a"] = func(context.Context) error { cancel(); return nil }
		res := w.run(ctx, twoSources, bake.Options{Parallel: 1})
		for _, r := range res {
			if r.Err == nil || r.Err.Error() != "cancelled" {
				t.Errorf("%s: %v", r.Name, r.Err)
			}
		}
		w.wrote("create disk-a", "create vm-a", "boot a", "release vm-a", "release disk-a")
		w.nothingLeft("cancelled")
	})
}

func TestRedSpecMakesNoImage(t *testing.T) {
	spec := func(want int) string {
		return fmt.Sprintf("spec \"web\" {\n  command \"echo hi\" {\n    its \"exit_status\" { eq = %d }\n  }\n}\n", want)
	}
	t.Run("red", func(t *testing.T) {
		w := newWorld(t)
		w.machine = local.Machine{}
		res := w.bake(build("", spec(3)), bake.Options{})
		if res.Err == nil || !strings.Contains(res.Err.Error(), `spec "web" is red, so there will be no image: 1 of 1 checks failed`) {
			t.Errorf("error: %v", res.Err)
		}
		w.wrote("create disk-a", "create vm-a", "boot a", "release vm-a", "release disk-a")
		if vs := w.versions("web"); len(vs) > 0 {
			t.Errorf("recorded: %+v", vs)
		}
		w.nothingLeft("failed")
	})
	t.Run("green", func(t *testing.T) {
		w := newWorld(t)
		w.machine = local.Machine{}
		if res := w.bake(build("", spec(0)+doOne+spec(0)), bake.Options{}); res.Err != nil {
			t.Fatal(res.Err)
		}
		var reports []struct{ Spec string }
		if err := json.Unmarshal(w.versions("web")[0].SpecSummary, &reports); err != nil || len(reports) != 2 {
			t.Errorf("spec summary: %+v, %v", reports, err)
		}
	})
	t.Run("without a machine", func(t *testing.T) {
		w := newWorld(t)
		res := w.bake(build("headless = true", spec(0)), bake.Options{})
		if res.Err == nil || !strings.Contains(res.Err.Error(), "no machine") {
			t.Errorf("error: %v", res.Err)
		}
		w.nothingLeft("failed")
	})
}

// A source may have no machine to connect to; what works locally runs all the same.
func TestHeadless(t *testing.T) {
	w := newWorld(t)
	w.fail("do two", 1)
	w.bake(build("headless = true", doOne+doTwo+cleanUp), bake.Options{})
	w.wrote("create disk-a", "create vm-a", "do one", "do two", "do cleanup", "release vm-a", "release disk-a")
}

const twoSources = `
source "fake" "a" {}
source "fake" "b" {}
build {
  name    = "web"
  sources = ["fake.a", "fake.b"]
  provisioner "do" { say = "in ${source.name}" }
}`

func TestOneImageOfTwoBakes(t *testing.T) {
	for _, parallel := range []int{0, 1} {
		w := newWorld(t)
		for _, r := range w.run(context.Background(), twoSources, bake.Options{Parallel: parallel}) {
			if r.Err != nil || r.Version != "web@v1" {
				t.Errorf("%s: version %q, %v", r.Name, r.Version, r.Err)
			}
		}
		vs := w.versions("web")
		if len(vs) != 1 || vs[0].Status != registry.StatusReady || len(vs[0].Artifacts) != 2 || vs[0].Artifacts[0].Source == vs[0].Artifacts[1].Source {
			t.Errorf("versions: %+v", vs)
		}
		w.nothingLeft("success")
	}
	t.Run("one fails", func(t *testing.T) {
		w := newWorld(t)
		w.fail("do in b", 1)
		res := w.run(context.Background(), twoSources, bake.Options{})
		if res[0].Err != nil || res[0].Version != "web@v1" || res[1].Err == nil || res[1].Version != "" {
			t.Errorf("results: %+v", res)
		}
		vs := w.versions("web")
		if len(vs) != 1 || vs[0].Status != registry.StatusIncomplete || len(vs[0].Artifacts) != 1 || vs[0].Artifacts[0].ExternalID != "img-a" {
			t.Errorf("versions: %+v", vs)
		}
	})
	t.Run("both fail", func(t *testing.T) {
		w := newWorld(t)
		w.fail("do in a", 1)
		w.fail("do in b", 1)
		w.run(context.Background(), twoSources, bake.Options{})
		if vs := w.versions("web"); len(vs) > 0 {
			t.Errorf("recorded: %+v", vs)
		}
		w.nothingLeft("failed")
	})
}

func TestParallel(t *testing.T) {
	const template = `
source "fake" "s" {}
build {
  dynamic "source" {
    for_each = ["1", "2", "3", "4", "5"]
    labels   = ["fake.s"]
    content { name = source.value }
  }
  provisioner "do" { say = "it" }
}`
	for limit, most := range map[int]int32{0: 5, 1: 1, 2: 2, 9: 5} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			w := newWorld(t)
			var now, max atomic.Int32
			w.on["do it"] = func(context.Context) error {
				n := now.Add(1)
				for m := max.Load(); n > m && !max.CompareAndSwap(m, n); m = max.Load() {
				}
				time.Sleep(time.Hour) // of the bubble's time: all that may run do by now
				now.Add(-1)
				return nil
			}
			synctest.Test(t, func(t *testing.T) { w.run(context.Background(), template, bake.Options{Parallel: limit}) })
			if max.Load() != most {
				t.Errorf("%d bakes ran at once, want %d", max.Load(), most)
			}
		})
	}
}

// What is finished is not thrown away because the registry fails.
func TestCannotRecord(t *testing.T) {
	w := newWorld(t)
	w.on["snapshot a"] = func(context.Context) error { return w.store.Close() }
	res := w.bake(build("guard = true", doOne), bake.Options{})
	if res.Artifact == nil || res.Version != "" || res.Err == nil {
		t.Fatalf("result: %+v", res)
	}
	for _, say := range []string{"the image is finished (img-a on the shelf) but could not be recorded", "copy it first"} {
		if !strings.Contains(res.Err.Error(), say) {
			t.Errorf("error %v, want %q in it", res.Err, say)
		}
	}
	if !w.exists["guard-a"] {
		t.Error("what guards the image was released")
	}
	if d := strings.Join(w.diary, "\n"); strings.Contains(d, "destroy") || strings.Contains(d, "release guard-a") || !strings.Contains(d, "release vm-a") {
		t.Errorf("the diary is %q", w.diary)
	}
}

// An image that is nowhere, as one of a builder that only runs provisioners,
// is no version.
func TestNothingToRecord(t *testing.T) {
	w := newWorld(t)
	res := w.bake(build("nowhere = true", doOne), bake.Options{})
	if res.Err != nil || res.Version != "" || res.Artifact.Text != "img-a on the shelf" {
		t.Errorf("result: %+v", res)
	}
	if vs := w.versions("web"); len(vs) > 0 {
		t.Errorf("recorded: %+v", vs)
	}
	w.nothingLeft("success")
}

func TestPostProcessors(t *testing.T) {
	tests := []struct {
		name, body string
		broken     string
		want       []string
		err        string
	}{
		{name: "none", want: nil},
		{name: "one consumes the image", body: `post-processor "make" { id = "x" }`,
			want: []string{"make x of img-a", "destroy img-a"}},
		{name: "one keeps it", body: `post-processor "make" {
			id   = "x"
			keep = true
		}`, want: []string{"make x of img-a"}},
		{name: "the template keeps it", body: `post-processor "make" {
			id                  = "x"
			keep_input_artifact = true
		}`, want: []string{"make x of img-a"}},
		{name: "the template cannot take what is needed", body: `post-processor "make" {
			id                  = "x"
			keep                = true
			keep_input_artifact = false
		}`, want: []string{"make x of img-a"}},
		{name: "a chain", body: `post-processors {
			post-processor "make" { id = "x" }
			post-processor "make" { id = "y" }
			post-processor "make" { id = "z" }
		}`, want: []string{"make x of img-a", "make y of x", "destroy x", "make z of y", "destroy y", "destroy img-a"}},
		{name: "a chain keeps what is between", body: `post-processors {
			post-processor "make" { id = "x" }
			post-processor "make" {
				id                  = "y"
				keep_input_artifact = true
			}
		}`, want: []string{"make x of img-a", "make y of x", "destroy img-a"}},
		{name: "what is handed through stays", body: `post-processors {
			post-processor "make" {
				id  = "x"
				out = "same"
			}
			post-processor "make" { id = "y" }
		}`, want: []string{"make x of img-a", "make y of img-a"}},
		{name: "what is handed through later stays", body: `post-processors {
			post-processor "make" { id = "x" }
			post-processor "make" {
				id  = "y"
				out = "same"
			}
		}`, want: []string{"make x of img-a", "make y of x", "destroy img-a"}},
		{name: "nothing ends a chain", body: `post-processors {
			post-processor "make" {
				id  = "x"
				out = "none"
			}
			post-processor "make" { id = "y" }
		}`, want: []string{"make x of img-a"}},
		{name: "several chains start from the image", body: `post-processor "make" { id = "x" }
			post-processors {
				post-processor "make" { id = "y" }
				post-processor "make" { id = "z" }
			}`, want: []string{"make x of img-a", "make y of img-a", "make z of y", "destroy y", "destroy img-a"}},
		{name: "one chain of several keeps the image", body: `post-processor "make" {
				id   = "x"
				keep = true
			}
			post-processor "make" { id = "y" }`, want: []string{"make x of img-a", "make y of img-a"}},
		{name: "a failure keeps the image", body: `post-processor "make" { id = "x" }`, broken: "make x of img-a",
			want: []string{"make x of img-a"}, err: "make x of img-a is broken"},
		{name: "a failure keeps it from other chains too, and they run", body: `post-processor "make" { id = "x" }
			post-processor "make" { id = "y" }`, broken: "make x of img-a",
			want: []string{"make x of img-a", "make y of img-a"}, err: "make x of img-a is broken"},
		{name: "a failure in a chain keeps its input and the image", body: `post-processors {
			post-processor "make" { id = "x" }
			post-processor "make" { id = "y" }
			post-processor "make" { id = "z" }
		}`, broken: "make y of x", want: []string{"make x of img-a", "make y of x"}, err: "the image is finished and stays: web@v1: img-a on the shelf"},
		{name: "what cannot be removed is an error", body: `post-processor "make" { id = "x" }`, broken: "destroy img-a",
			want: []string{"make x of img-a", "destroy img-a"}, err: "destroy img-a is broken"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			if test.broken != "" {
				w.fail(test.broken, 1)
			}
			res := w.bake(build("", test.body), bake.Options{})
			w.wrote(append([]string{"create disk-a", "create vm-a", "boot a", "snapshot a", "release vm-a", "release disk-a"}, test.want...)...)
			switch {
			case test.err == "" && res.Err != nil:
				t.Error(res.Err)
			case test.err != "" && (res.Err == nil || !strings.Contains(res.Err.Error(), test.err)):
				t.Errorf("error %v, want one with %q", res.Err, test.err)
			}
			if res.Artifact == nil || res.Version != "web@v1" || len(w.versions("web")) != 1 {
				t.Errorf("result %+v, versions %+v", res, w.versions("web"))
			}
		})
	}
	t.Run("cancelled", func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(context.Background())
		w.on["make x of img-a"] = func(context.Context) error { cancel(); return nil }
		res := w.run(ctx, build("", `post-processor "make" { id = "x" }
			post-processor "make" { id = "y" }`), bake.Options{})[0]
		if res.Err == nil || res.Err.Error() != "cancelled" || res.Version != "web@v1" {
			t.Errorf("result: %+v", res)
		}
		if d := w.diary[len(w.diary)-1]; d != "make x of img-a" {
			t.Errorf("last of all: %s", d)
		}
		w.nothingLeft("cancelled")
	})
}
