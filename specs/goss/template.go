package goss

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/Masterminds/sprig/v3"
)

// maxRender is how long a template may take. One that loops without printing
// cannot be stopped, only left behind.
const maxRender = 20 * time.Second

// maxGenerated bounds what one function call may make out of nothing.
const maxGenerated = 1 << 20

// limited takes up to maxFile bytes.
type limited struct{ bytes.Buffer }

var errTooLong = fmt.Errorf("the template gives more than %d bytes", maxFile)

func (w *limited) Write(p []byte) (int, error) {
	if w.Len()+len(p) > maxFile {
		return 0, errTooLong
	}
	return w.Buffer.Write(p)
}

// render runs a file's template. Environment and files are those of whoever
// runs the spec.
func (l *loader) render(s source, b []byte) ([]byte, error) {
	t, err := template.New(s.name).Funcs(functions()).Option("missingkey=error").Parse(string(b))
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: "))
	}
	env := map[string]string{}
	for _, e := range os.Environ() {
		if k, v, ok := strings.Cut(e, "="); ok {
			env[k] = v
		}
	}
	type result struct {
		out []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		var w limited
		defer func() {
			if p := recover(); p != nil {
				done <- result{nil, fmt.Errorf("a function of the template failed: %v", p)}
			}
		}()
		err := t.Execute(&w, map[string]any{"Vars": l.vars, "Env": env})
		done <- result{w.Bytes(), err}
	}()
	timer := time.NewTimer(maxRender)
	defer timer.Stop()
	select {
	case r := <-done:
		if errors.Is(r.err, errTooLong) {
			return nil, errTooLong
		}
		if r.err != nil {
			return nil, errors.New(strings.TrimPrefix(r.err.Error(), "template: "))
		}
		return r.out, nil
	case <-timer.C:
		return nil, fmt.Errorf("its template did not end within %s", maxRender)
	}
}

// functions are Sprig's, and goss' own, which go before them.
func functions() template.FuncMap {
	all := sprig.TxtFuncMap()
	// Those that make much of little are bounded.
	repeat := func(n int, s string) (string, error) {
		if n < 0 || n*len(s) > maxGenerated || n > maxGenerated {
			return "", fmt.Errorf("%d times is too much", n)
		}
		return strings.Repeat(s, n), nil
	}
	all["repeat"] = repeat
	indent := func(n int, s string) (string, error) {
		if n < 0 || n > 10000 || (strings.Count(s, "\n")+1)*n > maxFile {
			return "", fmt.Errorf("%d is too deep", n)
		}
		pad := strings.Repeat(" ", n)
		return pad + strings.ReplaceAll(s, "\n", "\n"+pad), nil
	}
	all["indent"] = indent
	all["nindent"] = func(n int, s string) (string, error) {
		s, err := indent(n, s)
		return "\n" + s, err
	}
	all["until"] = func(n int) ([]int, error) { return steps(0, n, sign(n)) }
	all["untilStep"] = steps
	all["seq"] = func(n ...int) (string, error) {
		var list []int
		var err error
		end := func(start, stop, step int) ([]int, error) {
			if step == 0 {
				return nil, nil
			}
			return steps(start, stop+sign(step), step)
		}
		switch len(n) {
		case 1:
			step := 1
			if n[0] < 1 {
				step = -1
			}
			list, err = end(1, n[0], step)
		case 2:
			step := 1
			if n[1] < n[0] {
				step = -1
			}
			list, err = end(n[0], n[1], step)
		case 3:
			list, err = end(n[0], n[2], n[1])
		}
		words := make([]string, len(list))
		for i, v := range list {
			words[i] = strconv.Itoa(v)
		}
		return strings.Join(words, " "), err
	}
	for _, name := range []string{"randAlpha", "randAlphaNum", "randAscii", "randNumeric"} {
		f, ok := all[name].(func(int) string)
		if !ok {
			continue
		}
		all[name] = func(n int) (string, error) {
			if n < 0 || n > maxGenerated {
				return "", fmt.Errorf("%d characters is too much", n)
			}
			return f(n), nil
		}
	}
	if f, ok := all["randBytes"].(func(int) (string, error)); ok {
		all["randBytes"] = func(n int) (string, error) {
			if n < 0 || n > maxGenerated {
				return "", fmt.Errorf("%d bytes is too much", n)
			}
			return f(n)
		}
	}

	all["mkSlice"] = func(args ...any) []any { return args }
	all["readFile"] = func(name string) (string, error) {
		b, err := readBounded(name)
		if err != nil {
			return "", fmt.Errorf("%s: %s", name, reason(err))
		}
		return strings.TrimSpace(string(b)), nil
	}
	all["getEnv"] = func(name string, fallback ...string) string {
		if v, ok := os.LookupEnv(name); ok && v != "" {
			return v
		}
		return strings.Join(fallback[:min(1, len(fallback))], "")
	}
	all["regexMatch"] = func(pattern, s string) (bool, error) { return regexp.MatchString(pattern, s) }
	all["toUpper"] = strings.ToUpper
	all["toLower"] = strings.ToLower
	all["findStringSubmatch"] = func(pattern, s string) (map[string]any, error) {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return nil, err
		}
		groups := re.FindStringSubmatch(s)
		named, numbered := map[string]any{}, map[string]any{}
		for i, g := range groups {
			numbered[strconv.Itoa(i)] = g
			if n := re.SubexpNames()[i]; n != "" {
				named[n] = g
			}
		}
		if len(named) > 0 {
			return named, nil
		}
		return numbered, nil
	}
	return all
}

func sign(n int) int {
	if n < 0 {
		return -1
	}
	return 1
}

// steps counts from start up or down to stop, which is not in it.
func steps(start, stop, step int) ([]int, error) {
	if step == 0 || (stop > start) != (step > 0) {
		return []int{}, nil
	}
	if n := (stop - start) / step; n > maxGenerated || n < 0 {
		return nil, fmt.Errorf("a list of %d numbers is too long", n)
	}
	out := []int{}
	for v := start; (v < stop) == (step > 0) && v != stop; v += step {
		out = append(out, v)
	}
	return out, nil
}
