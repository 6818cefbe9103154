// Package render renders the Go-template strings that options may hold beside
// HCL's own interpolation, such as "{{timestamp}}" and "{{ .Path }}".
package render

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"time"

	"github.com/google/uuid"
	"github.com/lestrrat-go/strftime"
)

// Env is what the functions of a Go template can say about a bake.
type Env struct {
	// BuildName is the name in the definition of the source, BuildType its type.
	BuildName, BuildType string
	// TemplateDir is the directory of the template.
	TemplateDir string
	// Version is the version of Packer whose behaviour is promised.
	Version string
	// Now is the time that timestamp, isotime and strftime tell. It should be
	// the start of the run, so that all strings of the run agree.
	Now time.Time
	// Clean is clean_resource_name, for components that name things where not
	// every name is allowed. Nil: there is no such function.
	Clean func(string) string
}

// Cleaner is what the options of a component are that has clean_resource_name.
type Cleaner interface {
	// CleanResourceName makes a name that is allowed on the platform.
	CleanResourceName(name string) string
}

// String renders s. In it {{ .X }} stands for data["X"]; a name that data does
// not have is an error. A string without "{{" is returned as it is.
func String(s string, data map[string]any, env Env) (string, error) {
	if !strings.Contains(s, "{{") {
		return s, nil
	}
	t, err := template.New("").Funcs(env.functions()).Parse(s)
	if err != nil {
		return "", parseError(err)
	}
	var out strings.Builder
	if err := t.Option("missingkey=error").Execute(&out, data); err != nil {
		return "", execError(err, data)
	}
	return out.String(), nil
}

// Check says whether s can be parsed.
func Check(s string) error {
	if !strings.Contains(s, "{{") {
		return nil
	}
	if _, err := template.New("").Funcs(Env{}.functions()).Parse(s); err != nil {
		return parseError(err)
	}
	return nil
}

// CheckNames refuses names {{ .X }} that are not known, and calls that will
// fail whatever the names stand for, such as {{ env `X` }}. A string that cannot
// be parsed it passes: that is for Check to say.
func CheckNames(s string, known []string, env Env) error {
	if !strings.Contains(s, "{{") {
		return nil
	}
	t, err := template.New("").Funcs(env.functions()).Parse(s)
	if err != nil || t.Tree == nil {
		return nil
	}
	data := map[string]any{}
	for _, name := range known {
		data[name] = nil
	}
	for _, name := range rootNames(t.Root) {
		if _, ok := data[name]; !ok {
			return unknownName(name, data)
		}
	}
	for _, n := range t.Root.Nodes {
		if a, ok := n.(*parse.ActionNode); ok && constant(a.Pipe) {
			if _, err := String(a.String(), nil, env); err != nil {
				return err
			}
		}
	}
	return nil
}

// constant tells whether a node consists of functions and literals only.
func constant(node parse.Node) bool {
	switch n := node.(type) {
	case *parse.PipeNode:
		return len(n.Decl) == 0 && !slices.ContainsFunc(n.Cmds, func(c *parse.CommandNode) bool { return !constant(c) })
	case *parse.CommandNode:
		return !slices.ContainsFunc(n.Args, func(a parse.Node) bool { return !constant(a) })
	case *parse.IdentifierNode, *parse.StringNode, *parse.NumberNode, *parse.BoolNode:
		return true
	}
	return false
}

// rootNames are the names that a template takes from its data, as far as that
// is plain: within range and with, the dot is something else.
func rootNames(node parse.Node) []string {
	var names []string
	switch n := node.(type) {
	case *parse.ListNode:
		if n == nil {
			break
		}
		for _, x := range n.Nodes {
			names = append(names, rootNames(x)...)
		}
	case *parse.ActionNode:
		names = rootNames(n.Pipe)
	case *parse.IfNode:
		names = slices.Concat(rootNames(n.Pipe), rootNames(n.List), rootNames(n.ElseList))
	case *parse.RangeNode:
		names = slices.Concat(rootNames(n.Pipe), rootNames(n.ElseList))
	case *parse.WithNode:
		names = slices.Concat(rootNames(n.Pipe), rootNames(n.ElseList))
	case *parse.PipeNode:
		for _, c := range n.Cmds {
			for _, a := range c.Args {
				names = append(names, rootNames(a)...)
			}
		}
	case *parse.FieldNode:
		names = []string{n.Ident[0]}
	case *parse.ChainNode:
		names = rootNames(n.Node)
	case *parse.VariableNode:
		if n.Ident[0] == "$" && len(n.Ident) > 1 {
			names = []string{n.Ident[1]}
		}
	}
	return names
}

const hint = "Ingot renders {{ }} in this option; to have the braces themselves, write {{ `{{` }}"

var (
	templatePlace = regexp.MustCompile(`^template: :\d+(:\d+)?: (executing "" at )?`)
	missingKey    = regexp.MustCompile(`map has no entry for key "([^"]*)"`)
)

func parseError(err error) error {
	text := templatePlace.ReplaceAllString(err.Error(), "")
	if strings.Contains(text, `function "build" not defined`) {
		return errors.New("{{ build }} does not exist in HCL templates; write ${build.ID} instead")
	}
	return fmt.Errorf("%s; %s", text, hint)
}

func execError(err error, data map[string]any) error {
	m := missingKey.FindStringSubmatch(err.Error())
	if m == nil {
		return errors.New(templatePlace.ReplaceAllString(err.Error(), ""))
	}
	return unknownName(m[1], data)
}

func unknownName(name string, data map[string]any) error {
	known := "no values are known here"
	if len(data) > 0 {
		known = "known here are ." + strings.Join(slices.Sorted(maps.Keys(data)), ", .")
	}
	return fmt.Errorf("{{ .%s }} is unknown; %s; %s", name, known, hint)
}

func (e Env) functions() template.FuncMap {
	return template.FuncMap{
		"build_name":     func() string { return e.BuildName },
		"build_type":     func() string { return e.BuildType },
		"template_dir":   func() string { return e.TemplateDir },
		"packer_version": func() string { return e.Version },
		// As in Packer: variables of HCL templates are not known to it.
		"user":      func(string) string { return "" },
		"pwd":       os.Getwd,
		"timestamp": func() int64 { return e.Now.Unix() },
		"isotime":   func(layout ...string) (string, error) { return isotime(e.Now, layout) },
		"strftime":  func(format string) (string, error) { return strftime.Format(format, e.Now.UTC()) },
		"uuid": func() (string, error) {
			id, err := uuid.NewV7()
			return id.String(), err
		},
		"upper":       strings.ToUpper,
		"lower":       strings.ToLower,
		"replace":     func(old, new string, n int, s string) string { return strings.Replace(s, old, new, n) },
		"replace_all": func(old, new, s string) string { return strings.ReplaceAll(s, old, new) },
		"split": func(s, sep string, i int) (string, error) {
			parts := strings.Split(s, sep)
			if i < 0 || i >= len(parts) {
				return "", fmt.Errorf("split: there is no part %d, only 0 to %d", i, len(parts)-1)
			}
			return parts[i], nil
		},
		"env": func(string) (string, error) {
			return "", errors.New(`env may only be used in the default of a variable: default = env("NAME")`)
		},
		"sed": func(...string) (string, error) {
			return "", errors.New("sed does not exist; use regex_replace(…) of HCL")
		},
		"vault":                  instead("vault"),
		"consul_key":             instead("consul_key"),
		"aws_secretsmanager":     instead("aws_secretsmanager"),
		"aws_secretsmanager_raw": instead("aws_secretsmanager_raw"),
		"clean_resource_name": func(name string) (string, error) {
			if e.Clean == nil {
				return "", errors.New("clean_resource_name exists only in sources whose platform has rules for names")
			}
			return e.Clean(name), nil
		},
	}
}

// instead is a function that HCL has and Go templates have not.
func instead(name string) func(...string) (string, error) {
	return func(...string) (string, error) {
		return "", fmt.Errorf("%s may not be used in {{ }}; write ${%s(…)}, or put it into a sensitive local", name, name)
	}
}

func isotime(now time.Time, layout []string) (string, error) {
	switch len(layout) {
	case 0:
		return now.UTC().Format(time.RFC3339), nil
	case 1:
		return now.UTC().Format(layout[0]), nil
	}
	return "", fmt.Errorf("isotime takes one layout, not %d", len(layout))
}
