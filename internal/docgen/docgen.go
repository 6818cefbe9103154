// Package docgen writes reference pages from the code: what a component's
// options are called and take is read from its options struct, what they mean
// from the struct's doc comments.
package docgen

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
)

const module = "github.com/ingotbuild/ingot"

// Notice stands at the head of every page.
const Notice = "<!-- Written by `go generate ./cmd/ingot` from the code. Do not edit. -->\n"

// Pages reads the source below the repository's root.
type Pages struct {
	root     string
	packages map[string]*source
}

// New returns Pages for the repository at root.
func New(root string) *Pages { return &Pages{root: root, packages: map[string]*source{}} }

// Component describes one component: the doc comment of the package that
// component's type stands in, and its options, a pointer to a struct that
// holds the defaults.
func (p *Pages) Component(component, options any) (string, error) {
	about, err := p.source(reflect.TypeOf(component))
	if err != nil {
		return "", err
	}
	opts, err := p.Options(options)
	if err != nil {
		return "", err
	}
	text := about.intro() + "\n\n"
	t := reflect.TypeOf(options).Elem()
	if src, err := p.source(t); err != nil {
		return "", err
	} else if more := src.rest(t.Name()); more != "" {
		text += more + "\n\n"
	}
	return text + opts, nil
}

// Options describes the options in the struct that options points to. Values
// that are set are taken for defaults.
func (p *Pages) Options(options any) (string, error) {
	v := reflect.ValueOf(options).Elem()
	var b strings.Builder
	err := p.list(&b, "", v.Type(), v, config.Fields(options))
	return b.String(), err
}

// source is what the files of one package say.
type source struct {
	doc   string
	types map[string]typeDoc
}

type typeDoc struct {
	text   string
	fields *ast.StructType
}

func (p *Pages) source(t reflect.Type) (*source, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s := p.packages[t.PkgPath()]; s != nil {
		return s, nil
	}
	rel, ok := strings.CutPrefix(t.PkgPath(), module+"/")
	if !ok {
		return nil, fmt.Errorf("%s is not of this module", t)
	}
	files, err := filepath.Glob(filepath.Join(p.root, filepath.FromSlash(rel), "*.go"))
	if err != nil {
		return nil, err
	}
	s := &source{types: map[string]typeDoc{}}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		if f.Doc != nil {
			s.doc = oneLine(f.Doc.Text())
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range g.Specs {
				ts, ok := spec.(*ast.TypeSpec)
				if !ok {
					continue
				}
				if st, ok := ts.Type.(*ast.StructType); ok {
					doc := ts.Doc
					if doc == nil {
						doc = g.Doc
					}
					s.types[ts.Name.Name] = typeDoc{oneLine(doc.Text()), st}
				}
			}
		}
	}
	p.packages[t.PkgPath()] = s
	return s, nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// intro is the package's doc comment without "Package name".
func (s *source) intro() string {
	words := strings.SplitN(s.doc, " ", 3)
	if len(words) < 3 {
		return ""
	}
	return upper(strings.TrimPrefix(words[2], "is "))
}

func upper(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// rest is a type's doc comment behind its first sentence, which says whose
// options they are.
func (s *source) rest(typ string) string {
	_, rest, _ := strings.Cut(s.types[typ].text, ". ")
	return rest
}

// comments collects the comments of a struct's options, and of those of the
// structs embedded in it.
func (p *Pages) comments(t reflect.Type, comments, names map[string]string) error {
	s, err := p.source(t)
	if err != nil {
		return err
	}
	doc, ok := s.types[t.Name()]
	if !ok {
		return fmt.Errorf("the source of type %s was not found", t)
	}
	for _, f := range doc.fields.Fields.List {
		if len(f.Names) == 0 {
			inner, err := embedded(t, f.Type)
			if err == nil {
				err = p.comments(inner, comments, names)
			}
			if err != nil {
				return err
			}
			continue
		}
		if f.Tag == nil || len(f.Names) != 1 {
			continue
		}
		tag, ok := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Lookup("cfg")
		if !ok {
			continue
		}
		option, _, _ := strings.Cut(tag, ",")
		comments[option], names[f.Names[0].Name] = oneLine(f.Doc.Text()), option
	}
	return nil
}

// embedded is the type of an embedded struct, which may be of another package.
func embedded(t reflect.Type, expr ast.Expr) (reflect.Type, error) {
	name := ""
	switch x := expr.(type) {
	case *ast.Ident:
		name = x.Name
	case *ast.SelectorExpr:
		name = x.Sel.Name
	}
	if f, ok := t.FieldByName(name); ok && f.Type.Kind() == reflect.Struct {
		return f.Type, nil
	}
	return nil, fmt.Errorf("%s embeds what is no struct", t)
}

// list writes one entry for each option, or for a few that share a comment.
func (p *Pages) list(b *strings.Builder, indent string, t reflect.Type, v reflect.Value, fields []config.Field) error {
	comments, names := map[string]string{}, map[string]string{} // by option; by Go name
	if err := p.comments(t, comments, names); err != nil {
		return err
	}
	for i := 0; i < len(fields); {
		// An option without a comment belongs to the one before it.
		end := i + 1
		for end < len(fields) && comments[fields[end].Name] == "" {
			if _, ok := comments[fields[end].Name]; !ok {
				return fmt.Errorf("option %s of %s was not found in the source", fields[end].Name, t)
			}
			end++
		}
		text := comments[fields[i].Name]
		if text == "" {
			return fmt.Errorf("option %s of %s has no doc comment", fields[i].Name, t)
		}
		own, kinds := map[string]bool{}, []string{}
		for _, f := range fields[i:end] {
			own[f.Name] = true
			kind := f.Type
			if f.Required {
				kind += ", required"
			}
			if !slices.Contains(kinds, kind) {
				kinds = append(kinds, kind)
			}
		}
		text, missing := optionNames(text, names, own)
		missing = slices.DeleteFunc(missing, func(option string) bool {
			many := own[option+"s"] // Packer's maps that may be written as blocks too
			if many {
				text += " Also as blocks **`" + option + "`**."
			}
			return many
		})
		if len(missing) > 0 {
			return fmt.Errorf("the comment of %s's option %s does not speak of %s", t, fields[i].Name, strings.Join(missing, ", "))
		}
		fmt.Fprintf(b, "%s- %s", indent, text)
		if d := defaultOf(v, fields[i].Name); d != "" && !mentionsDefault.MatchString(text) {
			fmt.Fprintf(b, " Default: `%s`.", d)
		}
		fmt.Fprintf(b, " (%s)\n", strings.Join(kinds, "; "))
		for _, f := range fields[i:end] {
			if f.Fields == nil {
				continue
			}
			inner, err := nested(t, f.Name)
			if err != nil {
				return err
			}
			zero := reflect.New(inner).Elem()
			if x := field(v, f.Name); x.Kind() == reflect.Struct {
				zero = x
			}
			if err := p.list(b, indent+"  ", inner, zero, f.Fields); err != nil {
				return err
			}
		}
		i = end
	}
	return nil
}

// mentionsDefault finds comments that speak of the default themselves.
var mentionsDefault = regexp.MustCompile(`[Dd]efault`)

var goName = regexp.MustCompile(`\.?[A-Z][A-Za-z0-9]*`)

// optionNames puts the options' names in the place of the fields', those of
// the entry itself in bold, and returns which of them the text leaves out.
func optionNames(text string, names map[string]string, own map[string]bool) (string, []string) {
	seen := map[string]bool{}
	text = goName.ReplaceAllStringFunc(text, func(word string) string {
		switch option := names[word]; {
		case option == "":
			return word
		case own[option]:
			seen[option] = true
			return "**`" + option + "`**"
		default:
			return "`" + option + "`"
		}
	})
	var missing []string
	for option := range own {
		if !seen[option] {
			missing = append(missing, option)
		}
	}
	slices.Sort(missing)
	return text, missing
}

// field is the field of v, or of a struct embedded in it, that holds the option.
// An embedded struct may have the name of one of its own fields.
func field(v reflect.Value, option string) reflect.Value {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("cfg"), ","); name == option {
			return v.Field(i)
		}
		if f.Anonymous && f.Type.Kind() == reflect.Struct {
			if x := field(v.Field(i), option); x.IsValid() {
				return x
			}
		}
	}
	return reflect.Value{}
}

func nested(t reflect.Type, option string) (reflect.Type, error) {
	x := field(reflect.New(t).Elem(), option)
	if !x.IsValid() {
		return nil, fmt.Errorf("%s has no field of its own for option %s", t, option)
	}
	inner := x.Type()
	for inner.Kind() == reflect.Slice || inner.Kind() == reflect.Pointer {
		inner = inner.Elem()
	}
	return inner, nil
}

func defaultOf(v reflect.Value, option string) string {
	x := field(v, option)
	if !x.IsValid() || x.IsZero() || x.Kind() == reflect.Struct {
		return ""
	}
	if d, ok := x.Interface().(time.Duration); ok {
		return short(d)
	}
	return fmt.Sprint(x.Interface())
}

// short writes a duration as a template would: 5m, not 5m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
