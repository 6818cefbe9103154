package registrytest

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/registry"
)

func facts(t *testing.T, open func() registry.Store) {
	ctx, s := t.Context(), open()
	v := ready("web")
	v.Facts = registry.Facts{
		"sandbox.a": {"packages": []byte(strings.Repeat("nginx 1.24\n", 10000)), "empty": {}},
		"sandbox.b": {"packages": []byte("a\x00b")},
	}
	one := record(t, s, v)
	if one.Facts != nil {
		t.Error("Record returns the facts with the version")
	}
	w := ready("web")
	w.Facts = registry.Facts{"sandbox.a": {"packages": v.Facts["sandbox.a"]["packages"], "files": []byte("new")}}
	record(t, s, w)
	record(t, s, ready("web"))

	check := func(s registry.Store) {
		t.Helper()
		for number, want := range []registry.Facts{1: v.Facts, 2: w.Facts, 3: nil} {
			if number == 0 {
				continue
			}
			got, err := s.Facts(ctx, "web", number)
			must(t, err)
			if len(got) != len(want) {
				t.Errorf("version %d has facts of %d sources, want %d", number, len(got), len(want))
			}
			for source, parts := range want {
				if len(got[source]) != len(parts) {
					t.Errorf("version %d, %s: %d parts, want %d", number, source, len(got[source]), len(parts))
				}
				for part, data := range parts {
					if !bytes.Equal(got[source][part], data) {
						t.Errorf("version %d, %s, %s: %d bytes that are not the ones recorded", number, source, part, len(got[source][part]))
					}
				}
			}
		}
	}
	check(open())
	_, err := s.Facts(ctx, "web", 9)
	refused(t, err, registry.ErrNotFound, "v9")
	_, err = s.Facts(ctx, "wen", 1)
	refused(t, err, registry.ErrNotFound, "did you mean")

	bad := ready("web")
	bad.Facts = registry.Facts{"a": {"": nil}}
	_, err = s.Record(ctx, bad)
	refused(t, err, nil, "no name")

	// What two versions share stays when one of them goes.
	must(t, s.DeleteVersion(ctx, "web", 1))
	_, err = s.Facts(ctx, "web", 1)
	refused(t, err, registry.ErrNotFound)
	got, err := s.Facts(ctx, "web", 2)
	must(t, err)
	if !bytes.Equal(got["sandbox.a"]["packages"], w.Facts["sandbox.a"]["packages"]) {
		t.Error("deleting a version took what another shares")
	}

}
