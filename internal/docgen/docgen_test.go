package docgen

import (
	"strings"
	"testing"
	"time"

	"github.com/ingotbuild/ingot/internal/docgen/testdata/example"
)

func TestComponent(t *testing.T) {
	p := New("../..")
	got, err := p.Component(&example.Options{}, &example.Options{Wait: 5 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	want := "What the tests of package docgen describe.\n\nOnly root may use them.\n\n" +
		"- **`path`** of the file, not {{ .Path }}. (string, required)\n" +
		"- **`user`** and **`group`** own it, as `path` says. (string)\n" +
		"- **`region`** is where it happens. (string)\n" +
		"- **`s3_key`** is a name with a digit. (string)\n" +
		"- **`wait`** is how long. Default: `5m`. (duration)\n" +
		"- **`disk`** blocks are disks. (list of block)\n" +
		"  - **`size`** is a number of bytes. Default: none. (number)\n"
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestRefused(t *testing.T) {
	for want, options := range map[string]any{
		"does not speak of rest": &example.Silent{},
		"name of example.Bare":   &example.Bare{},
		"is not of this module":  &struct{ time.Time }{},
	} {
		if _, err := New("../..").Options(options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%T: %v, want %q", options, err, want)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{24 * time.Hour: "24h", 90 * time.Minute: "1h30m", 100 * time.Millisecond: "100ms", 5 * time.Minute: "5m"} {
		if got := short(d); got != want {
			t.Errorf("short(%s) = %q, want %q", d, got, want)
		}
	}
}
