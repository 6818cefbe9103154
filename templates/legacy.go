package templates

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"

	"github.com/ingotbuild/ingot/templates/legacy"
)

// readLegacy reads the template when it is a legacy one.
func (l *loader) readLegacy() bool {
	name := l.o.Path
	var src []byte
	var err error
	switch info, statErr := os.Stat(name); {
	case name == "-":
		name = "<stdin>"
		if l.o.Stdin != nil {
			src, err = readAll(l.o.Stdin)
		}
	case isTemplate(name) || !strings.HasSuffix(name, ".json") || statErr != nil || info.IsDir():
		return false
	default:
		src, err = readFile(name)
	}
	l.t.Legacy, l.t.Dir = true, filepath.Dir(l.o.Path)
	if err != nil {
		l.add(failure(nil, "File not readable", "The file %q cannot be read: %s.", name, reason(err)))
		return true
	}
	file, diags := legacy.Parse(src, name)
	l.t.Files[name] = file
	l.add(diags...)
	return true
}

// imageName makes the name of a builder, which may be any text, the name of an
// image line.
func imageName(builder string) string {
	name := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, builder)
	name = strings.TrimLeft(name, "._-")
	return cmp.Or(name[:min(len(name), 63)], "image")
}
