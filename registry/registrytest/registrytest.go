// Package registrytest holds the tests that every registry.Store passes.
package registrytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/proc"
	"github.com/ingotbuild/ingot/registry"
)

// Run tests a Store. fresh makes an empty registry and returns a function that
// opens it, as often as it is called; fresh sees to it that what was opened is
// closed when the test ends.
func Run(t *testing.T, fresh func(t *testing.T) (open func() registry.Store)) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, func() registry.Store)
	}{
		{"Bakes", bakes},
		{"Leases", leases},
		{"SweptBakeMayNotLease", sweptBake},
		{"Versions", versions},
		{"VersionsAreChecked", versionsChecked},
		{"NumbersAreNotReused", numbers},
		{"Artifacts", artifacts},
		{"Facts", facts},
		{"Resolve", resolve},
		{"Promote", promote},
		{"PromoteRefuses", promoteRefuses},
		{"Services", services},
		{"ExportImport", exportImport},
		{"ImportRefuses", importRefuses},
		{"Concurrency", concurrency},
		{"ServiceConcurrency", serviceConcurrency},
		{"CancelledContext", cancelled},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, fresh(t)) })
	}
	t.Run("ExportOfAnotherImports", func(t *testing.T) { exportElsewhere(t, fresh(t)(), fresh(t)()) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks that err is of a kind (nil: any) and says all of texts.
func refused(t *testing.T, err, kind error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	if kind != nil && !errors.Is(err, kind) {
		t.Errorf("error %q is not %q", err, kind)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

var moment = time.Date(2026, 3, 1, 12, 30, 0, 123456000, time.UTC)

func sampleBake(id string) registry.Bake {
	return registry.Bake{
		ID: id, Name: "web.sandbox.web", Image: "web", Template: "web.pkr.hcl", Started: moment,
		Owner: proc.Owner{Host: "forge", BootID: "b1 pid:[1]", PID: 4711, StartTicks: 99},
	}
}

func ready(image string) registry.NewVersion {
	return registry.NewVersion{Image: image, Status: registry.StatusReady}
}

func record(t *testing.T, s registry.Store, v registry.NewVersion) registry.Version {
	t.Helper()
	out, err := s.Record(t.Context(), v)
	must(t, err)
	return out
}

func bakes(t *testing.T, open func() registry.Store) {
	ctx, s := t.Context(), open()
	first, second := sampleBake("aaa1"), sampleBake("aaa0")
	second.Started = moment.Add(time.Second)
	must(t, s.BeginBake(ctx, second))
	must(t, s.BeginBake(ctx, first))
	all, err := open().OpenBakes(ctx) // what is written, others see
	must(t, err)
	same(t, "open bakes", all, []registry.Bake{first, second})

	refused(t, s.BeginBake(ctx, first), registry.ErrConflict, "aaa1")
	for _, id := range []string{"", "A", "a-1", "a b", "ä"} {
		refused(t, s.BeginBake(ctx, sampleBake(id)), nil, "lower-case")
	}
	bad := sampleBake("bad")
	bad.Image = "no good"
	refused(t, s.BeginBake(ctx, bad), nil, "no good", "63")

	must(t, s.EndBake(ctx, "aaa1", "failed"))
	must(t, s.EndBake(ctx, "aaa1", "failed"))
	refused(t, s.EndBake(ctx, "aaa1", "success"), registry.ErrConflict, "failed")
	refused(t, s.EndBake(ctx, "aaa0", "fine"), nil, "fine", "cancelled")
	refused(t, s.EndBake(ctx, "zzz", "failed"), registry.ErrNotFound, "zzz")
	all, err = s.OpenBakes(ctx)
	must(t, err)
	same(t, "open bakes", all, []registry.Bake{second})

	heir := registry.Owner{Host: "heir", BootID: "b", PID: 7, StartTicks: 8}
	must(t, s.AdoptBake(ctx, "aaa0", second.Owner, heir))
	refused(t, s.AdoptBake(ctx, "aaa0", second.Owner, heir), registry.ErrConflict, "another process")
	refused(t, s.AdoptBake(ctx, "aaa1", first.Owner, heir), registry.ErrConflict, "failed")
	refused(t, s.AdoptBake(ctx, "zzz", first.Owner, heir), registry.ErrNotFound, "zzz")
	second.Owner = heir
	all, err = open().OpenBakes(ctx)
	must(t, err)
	same(t, "open bakes", all, []registry.Bake{second})

	before := time.Now().Add(-time.Millisecond)
	must(t, s.BeginBake(ctx, registry.Bake{ID: "now"}))
	all, err = s.OpenBakes(ctx)
	must(t, err)
	if got := all[1].Started; got.Before(before) || got.After(time.Now()) {
		t.Errorf("a bake without a start started at %v", got)
	}
}

func leases(t *testing.T, open func() registry.Store) {
	ctx, s := t.Context(), open()
	bake := sampleBake("b1")
	must(t, s.BeginBake(ctx, bake))
	wanted := builders.Lease{
		ID: "ignored", BakeID: "b1", Builder: "amazon-ebs", Kind: "instance", Name: "ingot-b1",
		Data: map[string]string{"region": "eu-west-1", "odd \"key\"": "ä\n"},
	}
	var all []registry.OwnedLease
	for range 20 {
		l, err := s.Intend(ctx, wanted)
		must(t, err)
		if l.ID == "" || l.ID == wanted.ID || l.Created.IsZero() {
			t.Fatalf("lease without id or time: %+v", l)
		}
		if n := len(all); n > 0 && l.ID <= all[n-1].ID {
			t.Errorf("lease %s sorts before %s", l.ID, all[n-1].ID)
		}
		all = append(all, registry.OwnedLease{Lease: l, Bake: bake})
	}
	must(t, s.Created(ctx, all[3].ID, "i-3"))
	must(t, s.Created(ctx, all[3].ID, "i-3"))
	refused(t, s.Created(ctx, all[3].ID, "i-4"), registry.ErrConflict, "i-3", "i-4")
	all[3].ExternalID = "i-3"
	refused(t, s.Created(ctx, "nobody", "i-1"), registry.ErrNotFound, "nobody")

	must(t, s.Released(ctx, all[0].ID))
	must(t, s.Released(ctx, all[0].ID))
	must(t, s.Created(ctx, all[0].ID, "i-0")) // late, but true; it stays released
	refused(t, s.Released(ctx, "nobody"), registry.ErrNotFound, "nobody")

	must(t, s.EndBake(ctx, "b1", "failed")) // an ended bake may still owe
	got, err := open().OpenLeases(ctx)
	must(t, err)
	for i := range got {
		if got[i].Bake.Outcome != "failed" || got[i].Bake.Ended.IsZero() {
			t.Fatalf("lease %d has bake %+v", i, got[i].Bake)
		}
		got[i].Bake.Outcome, got[i].Bake.Ended = "", time.Time{}
	}
	same(t, "open leases", got, all[1:])

	_, err = s.Intend(ctx, builders.Lease{BakeID: "nobody"})
	refused(t, err, registry.ErrNotFound, "nobody")
}

func sweptBake(t *testing.T, open func() registry.Store) {
	ctx, s := t.Context(), open()
	must(t, s.BeginBake(ctx, sampleBake("b1")))
	l, err := s.Intend(ctx, builders.Lease{BakeID: "b1", Kind: "instance"})
	must(t, err)
	must(t, open().EndBake(ctx, "b1", "swept"))
	_, err = s.Intend(ctx, builders.Lease{BakeID: "b1", Kind: "volume"})
	refused(t, err, registry.ErrConflict, "volume", "swept")
	must(t, s.Created(ctx, l.ID, "i-1")) // what is underway can still be found and released
	must(t, s.Released(ctx, l.ID))
}

func fullVersion() registry.NewVersion {
	return registry.NewVersion{
		Image: "web", Fingerprint: "sha256:ab", Template: "web.pkr.hcl", Status: registry.StatusIncomplete,
		Labels:        map[string]string{"commit": "4711", "": "empty"},
		Rollout:       json.RawMessage(`{"steps":[5,25,100]}`),
		ParentVersion: "base@v3",
		SpecSummary:   json.RawMessage(`{"passed":12}`),
		Artifacts: []registry.Artifact{
			{Platform: "amazon", Region: "eu-west-1", ExternalID: "ami-1", BuilderID: "mitchellh.amazonebs", BakeID: "b1", Source: "amazon-ebs.web"},
			{Platform: "amazon", Region: "us-east-1", ExternalID: "ami-2"},
			{Platform: "sandbox", Region: "qcow2", ExternalID: "sha256:cd", Digest: "sha256:cd", Location: "/images/web.qcow2"},
		},
	}
}

func versions(t *testing.T, open func() registry.Store) {
	ctx, s := t.Context(), open()
	before := time.Now().Add(-time.Millisecond)
	v1 := record(t, s, fullVersion())
	if v1.Number != 1 || v1.Created.Before(before) || v1.Created.After(time.Now()) {
		t.Errorf("recorded as %d at %v", v1.Number, v1.Created)
	}
	same(t, "recorded version", v1.NewVersion, fullVersion())
	v2 := record(t, s, ready("web"))
	base := record(t, s, ready("base"))
	got, err := open().Versions(ctx, "web")
	must(t, err)
	same(t, "versions of web", got, []registry.Version{v1, v2})

	_, err = s.Versions(ctx, "wbe")
	refused(t, err, registry.ErrNotFound, `image "wbe"`, "base, web", `did you mean "web"?`)

	_, err = s.Promote(ctx, registry.Promotion{Image: "web", Channel: "test", Version: 2, Actor: "ci"})
	must(t, err)
	images, err := s.Images(ctx)
	must(t, err)
	channels, err := s.Channels(ctx, "web")
	must(t, err)
	same(t, "images", images, []registry.ImageSummary{
		{Name: "base", Latest: base.Number, Versions: 1},
		{Name: "web", Latest: 2, Versions: 2, Channels: channels},
	})
}

func versionsChecked(t *testing.T, open func() registry.Store) {
	s := open()
	for _, test := range []struct {
		change func(*registry.NewVersion)
		want   string
	}{
		{func(v *registry.NewVersion) { v.Image = "a/b" }, "image name"},
		{func(v *registry.NewVersion) { v.Status = "" }, "status"},
		{func(v *registry.NewVersion) { v.Status = "done" }, "done"},
		{func(v *registry.NewVersion) { v.Artifacts[1].ExternalID = "" }, "artifact"},
		{func(v *registry.NewVersion) { v.Artifacts[1].Platform = "" }, "artifact"},
		{func(v *registry.NewVersion) { v.Rollout = json.RawMessage("{") }, "JSON"},
		{func(v *registry.NewVersion) { v.SpecSummary = json.RawMessage("{") }, "JSON"},
	} {
		v := fullVersion()
		test.change(&v)
		_, err := s.Record(t.Context(), v)
		refused(t, err, nil, test.want)
	}
	images, err := s.Images(t.Context())
	must(t, err)
	if len(images) != 0 {
		t.Errorf("what was refused left %+v", images)
	}
}

func numbers(t *testing.T, open func() registry.Store) {
	ctx, s := t.Context(), open()
	for range 3 {
		record(t, s, fullVersion())
	}
	must(t, s.DeleteVersion(ctx, "web", 3))
	must(t, s.DeleteVersion(ctx, "web", 1))
	refused(t, s.DeleteVersion(ctx, "web", 1), registry.ErrNotFound, "v1", "v2")
	refused(t, s.DeleteVersion(ctx, "wob", 1), registry.ErrNotFound, `"web"`)
	if v := record(t, s, ready("web")); v.Number != 4 {
		t.Errorf("after v3 was deleted comes v%d", v.Number)
	}
	must(t, s.DeleteVersion(ctx, "web", 2))
	must(t, s.DeleteVersion(ctx, "web", 4))
	images, err := s.Images(ctx)
	must(t, err)
	same(t, "images", images, []registry.ImageSummary{{Name: "web"}})
	if v := record(t, s, ready("web")); v.Number != 5 {
		t.Errorf("after all were deleted comes v%d", v.Number)
	}
}

func artifacts(t *testing.T, open func() registry.Store) {
	ctx, s := t.Context(), open()
	v := fullVersion()
	v.Artifacts = nil
	record(t, s, v)
	for _, i := range []int{2, 0, 1, 0} { // the second time for the first
		must(t, s.AddArtifact(ctx, "web", 1, fullVersion().Artifacts[i]))
	}
	got, err := s.Resolve(ctx, registry.Ref{Image: "web", Number: 1})
	must(t, err)
	same(t, "artifacts", got.Artifacts, fullVersion().Artifacts)

	refused(t, s.AddArtifact(ctx, "web", 2, fullVersion().Artifacts[0]), registry.ErrNotFound, "v2", "v1")
	refused(t, s.AddArtifact(ctx, "web", 1, registry.Artifact{Platform: "amazon"}), nil, "amazon")
	must(t, s.DeleteVersion(ctx, "web", 1))
	if v := record(t, s, ready("web")); len(v.Artifacts) != 0 {
		t.Errorf("a new version has artifacts %+v", v.Artifacts)
	}
}

func resolve(t *testing.T, open func() registry.Store) {
	ctx, s := t.Context(), open()
	_, err := s.Resolve(ctx, registry.Ref{Image: "web"})
	refused(t, err, registry.ErrNotFound, `image "web"`)
	incomplete := ready("web")
	incomplete.Status = registry.StatusIncomplete
	record(t, s, incomplete)
	_, err = s.Resolve(ctx, registry.Ref{Image: "web"})
	refused(t, err, registry.ErrNotFound, "web", "ready")

	record(t, s, ready("web"))
	record(t, s, ready("web"))
	record(t, s, incomplete)
	_, err = s.Promote(ctx, registry.Promotion{Image: "web", Channel: "production", Version: 2, Actor: "ci"})
	must(t, err)
	for text, want := range map[string]int{
		"web": 3, "web@v1": 1, "web@v4": 4, "web:v2": 2, "web@production": 2, "web:production": 2,
	} {
		r, err := registry.ParseRef(text)
		must(t, err)
		v, err := s.Resolve(ctx, r)
		must(t, err)
		if v.Image != "web" || v.Number != want {
			t.Errorf("%s is %s@v%d, want v%d", text, v.Image, v.Number, want)
		}
	}
	for text, want := range map[string]string{
		"wbe":           `did you mean "web"`,
		"web@v9":        "v4, v3, v2, v1",
		"web@prodction": `did you mean "production"`,
		"web@staging":   "there is production",
	} {
		r, err := registry.ParseRef(text)
		must(t, err)
		_, err = s.Resolve(ctx, r)
		refused(t, err, registry.ErrNotFound, want)
	}
}

func promote(t *testing.T, open func() registry.Store) {
	ctx, s := t.Context(), open()
	for range 3 {
		record(t, s, ready("web"))
	}
	incomplete := ready("web")
	incomplete.Status = registry.StatusIncomplete
	record(t, s, incomplete)
	moves := []registry.Promotion{
		{Image: "web", Channel: "staging", Version: 1, Actor: "ci", Reason: "new"},
		{Image: "web", Channel: "production", Version: 1, Actor: "alice"},
		{Image: "web", Channel: "staging", Version: 2, Rev: 1, Actor: "ci", Force: true}, // needs no force
		{Image: "web", Channel: "production", Version: 4, Rev: 1, Actor: "bob", Force: true, Reason: "it burns"},
		{Image: "web", Channel: "production", Version: 1, Rev: 2, Actor: "bob", Reason: "back"},
	}
	var events []registry.ChannelEvent
	for _, m := range moves {
		e, err := s.Promote(ctx, m)
		must(t, err)
		events = append(events, e)
	}
	history, err := open().History(ctx, "web")
	must(t, err)
	same(t, "history", history, events)
	prev := ""
	from := []int{0, 0, 1, 1, 4}
	for i, e := range history {
		m := moves[i]
		if e.PrevHash != prev || e.Hash == "" || e.At.IsZero() {
			t.Errorf("event %d is not chained to the one before: %+v", i, e)
		}
		prev = e.Hash
		e.At, e.Hash, e.PrevHash = time.Time{}, "", ""
		same(t, "event", e, registry.ChannelEvent{
			Image: "web", Seq: int64(i) + 1, Channel: m.Channel, Rev: m.Rev + 1, From: from[i], To: m.Version,
			Forced: m.Version == 4, Actor: m.Actor, Reason: m.Reason,
		})
	}
	must(t, s.VerifyHistory(ctx, "web"))

	channels, err := s.Channels(ctx, "web")
	must(t, err)
	same(t, "channels", channels, []registry.Channel{
		{Image: "web", Name: "production", Version: 1, Rev: 3, Since: events[4].At},
		{Image: "web", Name: "staging", Version: 2, Rev: 2, Since: events[2].At},
	})
	refused(t, s.DeleteVersion(ctx, "web", 1), registry.ErrInUse, "web@v1", "production")
	must(t, s.DeleteVersion(ctx, "web", 4)) // history may name what is gone
	must(t, s.VerifyHistory(ctx, "web"))
	_, err = s.Channels(ctx, "wob")
	refused(t, err, registry.ErrNotFound, "web")
	_, err = s.History(ctx, "wob")
	refused(t, err, registry.ErrNotFound, "web")
	refused(t, s.VerifyHistory(ctx, "wob"), registry.ErrNotFound, "web")
}

func promoteRefuses(t *testing.T, open func() registry.Store) {
	ctx, s := t.Context(), open()
	record(t, s, ready("web"))
	record(t, s, ready("web"))
	incomplete := ready("web")
	incomplete.Status = registry.StatusIncomplete
	record(t, s, incomplete)
	good := registry.Promotion{Image: "web", Channel: "production", Version: 1, Actor: "ci"}
	_, err := s.Promote(ctx, good)
	must(t, err)
	for _, test := range []struct {
		name   string
		change func(*registry.Promotion)
		kind   error
		want   string
	}{
		{"no-op", func(p *registry.Promotion) { p.Version = 1; p.Rev = 1 }, registry.ErrAlreadyThere, "web@v1"},
		{"no-op, stale", func(p *registry.Promotion) { p.Version = 1; p.Rev = 0 }, registry.ErrAlreadyThere, "web@v1"},
		{"forced no-op", func(p *registry.Promotion) { p.Version = 1; p.Rev = 1; p.Force = true }, registry.ErrAlreadyThere, "web@v1"},
		{"stale", func(p *registry.Promotion) { p.Rev = 0 }, registry.ErrConflict, "revision 1"},
		{"from the future", func(p *registry.Promotion) { p.Rev = 2 }, registry.ErrConflict, "revision 1"},
		{"forced stale", func(p *registry.Promotion) { p.Rev = 0; p.Force = true }, registry.ErrConflict, "revision 1"},
		{"new channel with a revision", func(p *registry.Promotion) { p.Channel = "test" }, registry.ErrConflict, "test of web is not there"},
		{"incomplete", func(p *registry.Promotion) { p.Version = 3 }, registry.ErrNotReady, "incomplete"},
		{"no such version", func(p *registry.Promotion) { p.Version = 4 }, registry.ErrNotFound, "v3, v2, v1"},
		{"no version", func(p *registry.Promotion) { p.Version = 0 }, registry.ErrNotFound, "v0"},
		{"no such image", func(p *registry.Promotion) { p.Image = "wob" }, registry.ErrNotFound, "web"},
		{"nobody", func(p *registry.Promotion) { p.Actor = " " }, nil, "who"},
		{"bad channel", func(p *registry.Promotion) { p.Channel = "a b" }, nil, "channel name"},
		{"version as channel", func(p *registry.Promotion) { p.Channel = "v2" }, nil, "reads as a version"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := good
			p.Version, p.Rev = 2, 1
			test.change(&p)
			_, err := s.Promote(ctx, p)
			refused(t, err, test.kind, test.want)
		})
	}
	history, err := s.History(ctx, "web")
	must(t, err)
	if len(history) != 1 {
		t.Errorf("refused promotions are in the history: %+v", history)
	}
}

func services(t *testing.T, open func() registry.Store) {
	ctx, s := t.Context(), open()
	_, _, err := s.LoadService(ctx, "web")
	refused(t, err, registry.ErrNotFound, "web")
	_, err = s.ServiceEvents(ctx, "web")
	refused(t, err, registry.ErrNotFound, "web")
	_, err = s.SaveService(ctx, "web", json.RawMessage(`{}`), 1, "no")
	refused(t, err, registry.ErrNotFound, "web")

	docs := []string{`{"state":"pending"}`, `{"state":"shifting"}`, `[null]`}
	for i, event := range []string{"started", "", "done"} {
		rev, err := s.SaveService(ctx, "web", json.RawMessage(docs[i]), int64(i), event)
		must(t, err)
		if rev != int64(i)+1 {
			t.Fatalf("save %d gave revision %d", i+1, rev)
		}
	}
	for _, rev := range []int64{0, 1, 2, 4, -1} {
		_, err = s.SaveService(ctx, "web", json.RawMessage(`{}`), rev, "lost")
		refused(t, err, registry.ErrConflict, "web", fmt.Sprint(rev))
	}
	_, err = s.SaveService(ctx, "web", json.RawMessage(`{`), 3, "broken")
	refused(t, err, nil, "JSON")
	_, err = s.SaveService(ctx, "web", nil, 3, "empty")
	refused(t, err, nil, "JSON")
	_, err = s.SaveService(ctx, "web/1", json.RawMessage(`{}`), 0, "name")
	refused(t, err, nil, "service name")

	doc, rev, err := open().LoadService(ctx, "web")
	must(t, err)
	if string(doc) != docs[2] || rev != 3 {
		t.Errorf("loaded %s at revision %d", doc, rev)
	}
	_, err = s.SaveService(ctx, "api", json.RawMessage(`{}`), 0, "")
	must(t, err)
	rows, err := s.Services(ctx)
	must(t, err)
	for i := range rows {
		if rows[i].Updated.IsZero() {
			t.Errorf("service %s was never updated", rows[i].Name)
		}
		rows[i].Updated = time.Time{}
	}
	same(t, "services", rows, []registry.ServiceRow{
		{Name: "api", Rev: 1, Doc: json.RawMessage(`{}`)}, {Name: "web", Rev: 3, Doc: json.RawMessage(docs[2])},
	})
	events, err := s.ServiceEvents(ctx, "web")
	must(t, err)
	for i := range events {
		if events[i].At.IsZero() {
			t.Errorf("event %+v has no time", events[i])
		}
		events[i].At = time.Time{}
	}
	same(t, "events", events, []registry.ServiceEvent{
		{Service: "web", Rev: 1, Event: "started"}, {Service: "web", Rev: 3, Event: "done"},
	})
	events, err = s.ServiceEvents(ctx, "api")
	must(t, err)
	if len(events) != 0 {
		t.Errorf("api has events %+v", events)
	}
}

// fill makes a registry with something of everything that Export writes.
func fill(t *testing.T, s registry.Store) {
	t.Helper()
	record(t, s, fullVersion())
	record(t, s, ready("web"))
	record(t, s, ready("web"))
	record(t, s, ready("base"))
	must(t, s.DeleteVersion(t.Context(), "web", 3))
	for _, p := range []registry.Promotion{
		{Image: "web", Channel: "staging", Version: 2, Actor: "ci", Reason: "<new> & \"good\" ä\n"},
		{Image: "web", Channel: "production", Version: 1, Actor: "alice", Force: true},
		{Image: "web", Channel: "production", Version: 2, Rev: 1, Actor: "alice"},
	} {
		_, err := s.Promote(t.Context(), p)
		must(t, err)
	}
}

func export(t *testing.T, s registry.Store) string {
	t.Helper()
	var out bytes.Buffer
	must(t, s.Export(t.Context(), &out))
	return out.String()
}

func exportImport(t *testing.T, open func() registry.Store) {
	s := open()
	empty := export(t, s)
	must(t, s.Import(t.Context(), strings.NewReader(empty)))
	fill(t, s)
	text := export(t, s)
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if !json.Valid([]byte(line)) {
			t.Errorf("line %d is not JSON: %s", n+1, line)
		}
	}
	// What is there already is refused, and nothing changes.
	refused(t, s.Import(t.Context(), strings.NewReader(text)), registry.ErrConflict, "base")
	same(t, "export after a refused import", export(t, s), text)

	err := s.Export(t.Context(), failingWriter{})
	refused(t, err, io.ErrShortWrite)
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func exportElsewhere(t *testing.T, from, to registry.Store) {
	ctx := t.Context()
	fill(t, from)
	known := ready("known")
	known.Facts = registry.Facts{"sandbox.a": {"packages": []byte("nginx"), "files": []byte("x\x00y")}}
	record(t, from, known)
	record(t, to, ready("other"))
	other := export(t, to)
	must(t, to.Import(ctx, strings.NewReader(export(t, from))))
	for _, image := range []string{"web", "base"} {
		a, err := from.Versions(ctx, image)
		must(t, err)
		b, err := to.Versions(ctx, image)
		must(t, err)
		same(t, "versions of "+image, b, a)
		must(t, to.VerifyHistory(ctx, image))
	}
	got, err := to.Facts(ctx, "known", 1)
	must(t, err)
	same(t, "facts", got, known.Facts)
	if v := record(t, to, ready("web")); v.Number != 4 {
		t.Errorf("after an import comes v%d, want v4: v3 was given before", v.Number)
	}
	_, err = to.Promote(ctx, registry.Promotion{Image: "web", Channel: "production", Version: 1, Rev: 2, Actor: "bob", Force: true})
	must(t, err)
	must(t, to.VerifyHistory(ctx, "web"))
	must(t, from.Import(ctx, strings.NewReader(other)))
	_, err = from.Resolve(ctx, registry.Ref{Image: "other"})
	must(t, err)
}

func importRefuses(t *testing.T, open func() registry.Store) {
	s := open()
	fill(t, s)
	// Under another name nothing is in the way, but the hashes of the history
	// no longer fit, so it starts without one.
	lines := strings.SplitAfter(export(t, s), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool {
		return l == "" || strings.HasPrefix(l, `{"event"`) || strings.HasPrefix(l, `{"channel"`) || strings.HasPrefix(l, `{"lines"`)
	})
	for i := range lines {
		lines[i] = strings.NewReplacer(`"web"`, `"web2"`, `"base"`, `"base2"`).Replace(lines[i])
	}
	whole := func(lines ...string) string {
		return strings.Join(lines, "") + fmt.Sprintf("{\"lines\":%d}\n", len(lines))
	}
	with := func(more ...string) string { return whole(append(slices.Clone(lines), more...)...) }
	const when = `"2026-03-01T12:30:00Z"`
	before := export(t, s)
	for _, test := range []struct{ name, text, want string }{
		{"empty", "", "cut short"},
		{"cut short", strings.Join(lines, ""), "cut short"},
		{"a line lost", strings.Join(lines[:2], "") + "{\"lines\":3}\n", "3 lines"},
		{"more after the end", with() + lines[1], "format"},
		{"not JSON", "<html>", "line 1"},
		{"no header", whole(lines[1:]...), "line 1"},
		{"newer format", whole(`{"ingotRegistry":2}` + "\n"), "format 1"},
		{"second header", with(lines[0]), "format"},
		{"unknown field", with(`{"colour":"blue"}` + "\n"), "colour"},
		{"empty line", with("{}\n"), "nothing"},
		{"bad name", with(`{"image":{"name":"a b","last":1,"created":` + when + "}}\n"), "image name"},
		{"negative image", with(`{"image":{"name":"c","last":-1,"created":` + when + "}}\n"), "-1"},
		{"image without a time", with(`{"image":{"name":"c","last":1}}` + "\n"), "created"},
		{"image twice", with(lines[1]), "already"},
		{"version twice", with(lines[2]), "UNIQUE"},
		{"version of nothing", with(`{"version":{"image":"c","number":1,"status":"ready","created":` + when + "}}\n"), `"c"`},
		{"version never given", with(`{"version":{"image":"web2","number":9,"status":"ready","created":` + when + "}}\n"), "version 9"},
		{"version 0", with(`{"version":{"image":"web2","number":0,"status":"ready","created":` + when + "}}\n"), "version 0"},
		{"bad status", with(`{"version":{"image":"web2","number":3,"status":"fine","created":` + when + "}}\n"), "fine"},
		{"channel without history", with(`{"channel":{"image":"web2","name":"prod","version":1,"rev":1,"since":` + when + "}}\n"), "history"},
		{"channel named as a version", with(`{"channel":{"image":"web2","name":"v2","version":1,"rev":1,"since":` + when + "}}\n"), "reads as a version"},
		{"forged event", with(`{"event":{"image":"web2","seq":1,"channel":"prod","rev":1,"to":1,"actor":"me","at":` + when + `,"hash":"00"}}` + "\n"), "was changed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			refused(t, s.Import(t.Context(), strings.NewReader(test.text)), nil, test.want)
		})
	}
	same(t, "export after refused imports", export(t, s), before)
	must(t, s.Import(t.Context(), strings.NewReader(with()))) // so that the cases fail for their own reasons
}

// Hammer records and promotes in one image, rounds times each, and returns the
// numbers it was given and how many promotions went through. Lost races are
// not errors. Several may hammer at once.
func Hammer(ctx context.Context, s registry.Store, actor string, rounds int) (numbers []int, promoted int, err error) {
	for range rounds {
		v, err := s.Record(ctx, ready("web"))
		if err != nil {
			return nil, 0, err
		}
		numbers = append(numbers, v.Number)
		channels, err := s.Channels(ctx, "web")
		if err != nil {
			return nil, 0, err
		}
		p := registry.Promotion{Image: "web", Channel: "production", Version: v.Number, Actor: actor}
		if len(channels) > 0 {
			p.Rev = channels[0].Rev
		}
		switch _, err := s.Promote(ctx, p); {
		case err == nil:
			promoted++
		case !errors.Is(err, registry.ErrConflict):
			return nil, 0, err
		}
	}
	return numbers, promoted, nil
}

// CheckHammered checks what a number of Hammers have left: numbers are all the
// numbers that they were given, promoted the sum of their promotions.
func CheckHammered(t *testing.T, s registry.Store, numbers []int, promoted int) {
	t.Helper()
	ctx := t.Context()
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != i+1 {
			t.Fatalf("number %d of those given is %d", i+1, n)
		}
	}
	all, err := s.Versions(ctx, "web")
	must(t, err)
	channels, err := s.Channels(ctx, "web")
	must(t, err)
	history, err := s.History(ctx, "web")
	must(t, err)
	if len(all) != len(numbers) || len(history) != promoted || promoted == 0 || channels[0].Rev != int64(promoted) {
		t.Errorf("%d numbers given, %d versions; %d promotions, %d events, revision %d",
			len(numbers), len(all), promoted, len(history), channels[0].Rev)
	}
	must(t, s.VerifyHistory(ctx, "web"))
}

func concurrency(t *testing.T, open func() registry.Store) {
	const stores, each, rounds = 4, 4, 5
	var (
		wg       sync.WaitGroup
		mu       sync.Mutex
		numbers  []int
		promoted int
	)
	defer wg.Wait() // also when a store doesn't open
	for range stores {
		s := open()
		for i := range each {
			wg.Go(func() {
				n, p, err := Hammer(t.Context(), s, fmt.Sprint("worker ", i), rounds)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				numbers, promoted = append(numbers, n...), promoted+p
			})
		}
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	CheckHammered(t, open(), numbers, promoted)
}

func serviceConcurrency(t *testing.T, open func() registry.Store) {
	const workers, rounds = 4, 10
	s := open()
	_, err := s.SaveService(t.Context(), "web", json.RawMessage(`0`), 0, "made")
	must(t, err)
	var wg sync.WaitGroup
	defer wg.Wait() // also when a store doesn't open
	for range workers {
		s := open()
		wg.Go(func() {
			for done := 0; done < rounds; { // each adds one, however often it loses
				doc, rev, err := s.LoadService(t.Context(), "web")
				if err != nil {
					t.Error(err)
					return
				}
				var n int
				if err := json.Unmarshal(doc, &n); err != nil {
					t.Error(err)
					return
				}
				_, err = s.SaveService(t.Context(), "web", json.RawMessage(fmt.Sprint(n+1)), rev, "added")
				switch {
				case err == nil:
					done++
				case !errors.Is(err, registry.ErrConflict):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	doc, rev, err := s.LoadService(t.Context(), "web")
	must(t, err)
	events, err := s.ServiceEvents(t.Context(), "web")
	must(t, err)
	const want = workers * rounds
	if string(doc) != fmt.Sprint(want) || rev != want+1 || len(events) != want+1 {
		t.Errorf("document %s, revision %d, %d events; want %d, %d, %d", doc, rev, len(events), want, want+1, want+1)
	}
}

func cancelled(t *testing.T, open func() registry.Store) {
	s := open()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Record(ctx, ready("web"))
	refused(t, err, context.Canceled)
	_, err = s.Images(ctx)
	refused(t, err, context.Canceled)
	images, err := s.Images(t.Context())
	must(t, err)
	if len(images) != 0 {
		t.Errorf("a cancelled call left %+v", images)
	}
}
