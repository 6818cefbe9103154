package specs

import (
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/specs/goss"
	"github.com/zclconf/go-cty/cty"
)

// GossOptions say how a goss file is read. The zero value is fine.
type GossOptions struct {
	// Vars are files of variables for the file's templates, YAML or JSON; later
	// ones go before earlier ones. Inline are variables that replace theirs, as
	// YAML or JSON.
	Vars   []string
	Inline string
	// Package says which package manager is meant: deb (or dpkg), rpm, apk or
	// pacman. Empty is that of the machine; with another than that a check of a
	// package is an error.
	Package string
	// Sudo says that the checks are made as root.
	Sudo bool
	// Stdin is what the path "-" stands for.
	Stdin io.Reader

	values    map[string]any
	sensitive bool // nothing of what is found may be shown
}

// CompileGoss makes a spec of a goss file and all that it includes. Templates
// in it get environment and files of the process that reads it; everything
// that it checks is asked of the machine. A diagnostic says file and line.
func CompileGoss(path string, opt GossOptions) (*Spec, hcl.Diagnostics) {
	name := strings.TrimSuffix(path[strings.LastIndex(path, "/")+1:], ".yaml")
	if path == "-" {
		name = "goss"
	}
	checks, diags := gossChecks(path, opt)
	return &Spec{Name: name, Sudo: opt.Sudo, Checks: checks}, diags
}

// A gossCheck is what a check of a goss file has beyond others.
type gossCheck struct {
	// resource is shared by the checks of one subject: they are made again
	// together, and the first one may say that the others are skipped.
	resource *goss.Resource
	check    goss.Check
	value    func(fact any) (any, error)
	first    int // how many checks before this one the subject's first stands
	retries  int
}

// gossChecks reads a goss file as checks.
func gossChecks(path string, opt GossOptions) ([]Check, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	add := func(severity hcl.DiagnosticSeverity, summary, file string, line int, detail string) {
		diags = append(diags, &hcl.Diagnostic{Severity: severity, Summary: summary, Detail: Clean(detail), Subject: gossRange(file, line)})
	}
	if opt.Package != "" && gossManagers[opt.Package] == "" {
		add(hcl.DiagError, "Unknown package manager", path, 0, fmt.Sprintf("%q is none of deb, dpkg, rpm, apk and pacman.", opt.Package))
		return nil, diags
	}
	f, err := goss.Load(path, goss.Options{Vars: opt.Vars, Inline: opt.Inline, Values: opt.values, Stdin: opt.Stdin})
	if err != nil {
		all := []error{err}
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			all = joined.Unwrap()
		}
		for _, e := range all {
			var p goss.Problem
			if !errors.As(e, &p) {
				p = goss.Problem{File: path, Message: e.Error()}
			}
			detail := p.Message
			if p.Rendered {
				detail += " (The line is one of what the file's template gives.)"
			}
			add(hcl.DiagError, "Unusable goss file", p.File, p.Line, detail)
		}
		return nil, diags
	}
	for _, w := range f.Warnings {
		add(hcl.DiagWarning, "Doubtful goss file", w.File, w.Line, w.Message)
	}
	var checks []Check
	for i := range f.Resources {
		more, err := gossResource(&f.Resources[i], opt)
		if err != nil {
			r := f.Resources[i]
			add(hcl.DiagError, "Unsuitable "+r.Kind.Key, r.File, r.Line, fmt.Sprintf("%s %q cannot be checked: %s.", r.Kind.Key, r.Subject, err))
		}
		checks = append(checks, more...)
	}
	return checks, diags
}

func gossRange(file string, line int) *hcl.Range {
	at := hcl.Pos{Line: max(line, 1), Column: 1}
	return &hcl.Range{Filename: file, Start: at, End: at}
}

var gossManagers = map[string]string{"deb": "dpkg", "dpkg": "dpkg", "rpm": "rpm", "apk": "apk", "pacman": "pacman"}

// A gossQuestion is what the machine is asked for one attribute.
type gossQuestion struct {
	kind  *kind
	key   string
	value func(fact any) (any, error)
}

// gossResource makes the checks of one resource.
func gossResource(r *goss.Resource, opt GossOptions) ([]Check, error) {
	if err := printable(r.Subject); err != nil && r.Kind.Key != "command" && r.Kind.Key != "matching" {
		return nil, err
	}
	var ask func(attribute string) gossQuestion
	timeout := defaultTimeout
	if !r.Skip {
		var err error
		if ask, err = gossAsk(r, opt); err != nil {
			return nil, err
		}
	}
	switch {
	case r.Kind.Key == "command" && r.Timeout > 0:
		timeout = r.Timeout
	case r.Timeout > 0 || r.Kind.Key == "http":
		timeout = gossTimeout(r) + 10*time.Second // it ends by itself
	}
	var checks []Check
	for i, c := range r.Checks {
		check := Check{
			Resource: r.Kind.Key, Subject: r.Subject, Title: r.Title, Property: c.Attribute.Name,
			Expect: "should match " + hide(opt.sensitive, goss.Show(c.Matcher.Raw())), Timeout: timeout,
			RetryInterval: r.RetryDelay, Range: *gossRange(r.File, c.Line), sensitive: opt.sensitive,
			goss: &gossCheck{resource: r, check: c, first: i, retries: r.RetryCount},
		}
		if r.Skip {
			check.kind, check.skip = nothing, "the goss file says skip"
		} else {
			q := ask(c.Attribute.Name)
			check.kind, check.key, check.goss.value = q.kind, q.key, q.value
		}
		checks = append(checks, check)
	}
	return checks, nil
}

// gossTimeout is a resource's timeout, or what goss takes where there is none.
func gossTimeout(r *goss.Resource) time.Duration {
	if r.Timeout > 0 {
		return r.Timeout
	}
	return map[string]time.Duration{"addr": 500 * time.Millisecond, "dns": 500 * time.Millisecond, "http": 5 * time.Second}[r.Kind.Key]
}

// gossOf makes a question about facts of type F.
func gossOf[F any](k *kind, key string, value func(F) (any, error)) gossQuestion {
	return gossQuestion{k, key, func(fact any) (any, error) { return value(fact.(F)) }}
}

// gossThere is the question whether something is there, of a kind of fact
// that is missing where it is not.
func gossThere(k *kind, key string) gossQuestion {
	return gossQuestion{k, key, func(fact any) (any, error) {
		_, gone := fact.(missing)
		return !gone, nil
	}}
}

func gossNumber(s string) (any, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return nil, fmt.Errorf("the machine gives no number: %s", Clean(s))
	}
	return n, nil
}

// gossAsk says, for each attribute of a resource, how it is found out.
func gossAsk(r *goss.Resource, opt GossOptions) (func(attribute string) gossQuestion, error) {
	s := r.Subject
	valid := func(name string) error { // as the language has it
		all := resources()
		return all[slices.IndexFunc(all, func(x resource) bool { return x.name == name })].fitsPosix(s)
	}
	switch r.Kind.Key {
	case "addr":
		return gossAddr(r)
	case "command":
		if strings.TrimSpace(s) == "" || strings.ContainsRune(s, 0) {
			return nil, errors.New("a command is a line for sh")
		}
		k := commands
		if r.Timeout > 0 && r.Timeout != defaultTimeout {
			limited := *commands // what is killed after another time is another fact
			limited.name += " for " + r.Timeout.String()
			k = &limited
		}
		return func(attribute string) gossQuestion {
			return gossOf(k, s, func(o output) (any, error) {
				switch attribute {
				case "stdout":
					return goss.Reader(o.stdout), nil
				case "stderr":
					return goss.Reader(o.stderr), nil
				}
				return o.status, nil
			})
		}, nil
	case "dns":
		return gossDNS(r)
	case "file":
		return gossFile(s)
	case "group":
		return func(attribute string) gossQuestion {
			if attribute == "exists" {
				return gossThere(groups, s)
			}
			return gossOf(groups, s, func(g group) (any, error) { return gossNumber(g.gid) })
		}, account(s)
	case "http":
		return gossHTTP(r)
	case "interface":
		return func(attribute string) gossQuestion {
			if attribute == "exists" {
				return gossThere(interfaces, s)
			}
			return gossOf(interfaces, s, func(i netDevice) (any, error) {
				if attribute == "mtu" {
					return gossNumber(i.mtu)
				}
				if i.noAddrs != nil {
					return nil, i.noAddrs
				}
				out := []string{}
				for _, a := range i.addrs {
					out = append(out, a.String())
				}
				return out, nil
			})
		}, valid("interface")
	case "kernel-param":
		return func(string) gossQuestion {
			return gossOf(gossParameters, s, func(v string) (any, error) { return v, nil })
		}, valid("linux_kernel_parameter")
	case "matching":
		return func(string) gossQuestion {
			return gossQuestion{nothing, "", func(any) (any, error) {
				if text, ok := r.Content.(string); ok && r.AsReader {
					return goss.Reader(text), nil
				}
				return r.Content, nil
			}}
		}, nil
	case "mount":
		if !path.IsAbs(s) {
			return nil, errors.New("a mount point's path begins with /")
		}
		return func(attribute string) gossQuestion {
			if attribute == "exists" {
				return gossThere(gossMounts, s)
			}
			return gossOf(gossMounts, s, func(m gossMount) (any, error) { return m.attribute(attribute) })
		}, nil
	case "package":
		return func(attribute string) gossQuestion {
			return gossOf(packages, s, func(p pkg) (any, error) {
				if want := gossManagers[opt.Package]; want != "" && want != p.manager {
					return nil, unsupported(fmt.Sprintf("packages of %s are asked for, and the machine has %s", want, p.manager))
				}
				if attribute == "installed" {
					return len(p.versions) > 0, nil
				}
				return slices.Clone(p.versions), nil
			})
		}, valid("package")
	case "port":
		return gossPort(s)
	case "process":
		if s == "" {
			return nil, errors.New("a process has a name")
		}
		return func(string) gossQuestion {
			return gossOf(processes, s, func(p []process) (any, error) { return len(p) > 0, nil })
		}, nil
	case "registry":
		return func(string) gossQuestion {
			return gossQuestion{nothing, "", func(any) (any, error) { return nil, unsupported("only Windows has a registry") }}
		}, nil
	case "service":
		return func(attribute string) gossQuestion {
			return gossOf(services, s, func(u unit) (any, error) { return u.goss(attribute) })
		}, valid("service")
	case "user":
		return func(attribute string) gossQuestion {
			if attribute == "exists" {
				return gossThere(users, s)
			}
			return gossOf(users, s, func(u user) (any, error) {
				switch attribute {
				case "uid":
					return gossNumber(u.uid)
				case "gid":
					return gossNumber(u.gid)
				case "home":
					return u.home, nil
				case "shell":
					return u.shell, nil
				}
				return slices.Sorted(slices.Values(u.groups)), nil
			})
		}, account(s)
	}
	return nil, fmt.Errorf("nobody knows how to ask for a %s", r.Kind.Key)
}

// goss gives what goss asks of a service.
func (u unit) goss(attribute string) (any, error) {
	switch attribute {
	case "running":
		if u.init == "none" {
			// What is not there at all does not run, whoever would say so.
			if _, state, err := u.enabled(); err == nil && (state == "no such unit" || state == "no such service in /etc/init.d") {
				return false, nil
			}
		}
		ok, _, err := u.running()
		return ok, err
	case "enabled":
		// systemctl is-enabled, which goss trusts, is content with these too.
		if u.manager == "systemd" && slices.Contains([]string{"enabled-runtime", "static", "indirect", "alias", "generated"}, u.props["UnitFileState"]) {
			return true, nil
		}
		ok, _, err := u.enabled()
		return ok, err
	}
	levels := []string{}
	for _, l := range u.links {
		dir := path.Base(path.Dir(l))
		switch {
		case strings.HasPrefix(l, "/etc/runlevels/"):
			levels = append(levels, dir)
		case strings.HasPrefix(dir, "rc") && strings.HasSuffix(dir, ".d"):
			levels = append(levels, strings.TrimSuffix(strings.TrimPrefix(dir, "rc"), ".d"))
		}
	}
	if u.manager == "systemd" { // which has none, whatever links there are
		return []string{}, nil
	}
	slices.Sort(levels)
	return slices.Compact(levels), nil
}

func gossPort(s string) (func(string) gossQuestion, error) {
	proto, port, ok := strings.Cut(s, ":")
	if !ok {
		proto, port = "tcp", s
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if !slices.Contains([]string{"tcp", "tcp6", "udp", "udp6"}, proto) || err != nil || n == 0 {
		return nil, errors.New("a port is a number from 1 to 65535, and tcp:, tcp6:, udp: or udp6: may stand before it")
	}
	return func(attribute string) gossQuestion {
		return gossOf(sockets, strconv.Itoa(int(n)), func(here []listener) (any, error) {
			ips := []string{}
			for _, l := range here {
				if l.udp == strings.HasPrefix(proto, "udp") && l.six == strings.HasSuffix(proto, "6") {
					ips = append(ips, l.addr.Addr().String())
				}
			}
			if attribute == "listening" {
				return len(ips) > 0, nil
			}
			return ips, nil
		})
	}, nil
}

func gossAddr(r *goss.Resource) (func(string) gossQuestion, error) {
	network, address, ok := strings.Cut(r.Subject, "://")
	if !ok {
		network, address = "tcp", r.Subject
	}
	if strings.HasPrefix(network, "udp") {
		return func(string) gossQuestion {
			return gossQuestion{nothing, "", func(any) (any, error) {
				return nil, unsupported("UDP says nothing about who listens: silence is an answer too")
			}}
		}, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || network != "tcp" && network != "tcp4" && network != "tcp6" {
		return nil, errors.New("an address is tcp://host:port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, fmt.Errorf("%q is no port", port)
	}
	local := r.Text("local-address")
	for _, h := range []string{host, local} {
		if err := pattern(`^$|^[A-Za-z0-9_:][A-Za-z0-9_.:%-]*$`)(h); err != nil {
			return nil, err
		}
	}
	if host == "" {
		host = "localhost"
	}
	wait := strconv.Itoa(seconds(gossTimeout(r)))
	key, k := host+"\x00"+port+"\x00"+wait, connects
	if local != "" {
		key, k = key+"\x00"+local, gossConnects
	}
	return func(string) gossQuestion {
		return gossOf(k, key, func(why string) (any, error) { return why == "", nil })
	}, nil
}

// row is the check's row before there is a verdict.
func (g *gossCheck) row() *goss.Row {
	return &goss.Row{Type: g.resource.Kind.Type, ID: g.resource.Name(), Property: g.check.Attribute.Property, Title: g.resource.Title, Meta: g.resource.Meta}
}

// verdict fills in what a fact means for a check of a goss file. report has
// the results of the checks before it.
func (g *gossCheck) verdict(fact any, results []Result, i int) (again bool) {
	r, row := &results[i], g.row()
	r.Goss, r.Actual, r.Message = row, "", ""
	if first := &results[i-g.first]; g.first > 0 && g.resource.Kind.Gated {
		gone := first.Status != Pass
		if first.Goss != nil && first.Status == Pass {
			gone = first.Goss.Outcome.Actual == false
		}
		if gone {
			r.Status, r.Message = Skip, g.resource.Kind.Attributes[0].Name+" is not so, and so there is nothing to look at"
			row.Result = goss.Skip
			return first.Status != Pass
		}
	}
	if list, ok := fact.(missing); ok && !(g.first == 0 && g.resource.Kind.Gated) {
		fact = errors.New(string(list))
	}
	var value any
	var err error
	switch f := fact.(type) {
	case nil:
		err = errors.New("the machine gave no answer")
	case missing:
		value, err = g.value(f)
	case error:
		err = f
	default:
		value, err = g.value(fact)
	}
	if err != nil {
		row.Outcome = goss.Outcome{Err: errors.New(Clean(err.Error()))}
	} else {
		row.Outcome = g.check.Matcher.Match(value)
	}
	o := row.Outcome
	switch {
	case o.Err != nil:
		r.Status, r.Message, row.Result = Error, Clean(o.Err.Error()), goss.Fail
	case o.OK:
		r.Status = Pass
	default:
		r.Status, row.Result = Fail, goss.Fail
		if len(o.Missing) > 0 {
			r.Message = Clean("missing: " + goss.Show(o.Missing))
		}
		if len(o.Extra) > 0 {
			r.Message = Clean(strings.TrimPrefix(r.Message+"; too many: "+goss.Show(o.Extra), "; "))
		}
	}
	if o.Err == nil {
		r.Actual = Clean(goss.Show(o.Actual))
	}
	return r.Status != Pass && !errors.Is(err, errUnsupported)
}

// hide takes out of a result what a sensitive check found.
func (g *gossCheck) hide(r *Result) {
	r.Actual = hidden
	if r.Message != "" && r.Status != Skip {
		r.Message = "it is not shown, for a variable of the goss file is sensitive"
	}
	o := &r.Goss.Outcome
	if o.Err != nil {
		o.Err = errors.New(r.Message)
	}
	keep := o.Actual == false && r.Status == Pass // which tells the checks that follow
	*o = goss.Outcome{OK: o.OK, Err: o.Err, Actual: hidden, Expected: hidden, Message: o.Message}
	if keep {
		o.Actual = false
	}
}

// GossRows gives a report as goss' formats print it (goss.Write). Results that
// are not of a goss file become rows too.
func (r *Report) GossRows() []goss.Row {
	rows := make([]goss.Row, 0, len(r.Results))
	at := r.Started
	for _, x := range r.Results {
		var row goss.Row
		if x.Goss != nil {
			row = *x.Goss
		} else {
			row = goss.Row{Type: x.Resource, ID: x.Subject, Property: x.Property, Title: x.Title}
			row.Outcome = goss.Outcome{OK: x.Status == Pass, Actual: x.Actual, Expected: x.Expect, Message: "to fulfil"}
			if x.Status == Error {
				row.Outcome.Err = errors.New(x.Message)
			}
		}
		switch x.Status {
		case Pass:
			row.Result = goss.Pass
		case Skip, Waived:
			row.Result = goss.Skip
		default:
			row.Result = goss.Fail
		}
		row.Start, row.Duration = at, time.Duration(x.Seconds*float64(time.Second))
		rows = append(rows, row)
	}
	return rows
}

// gossBlock reads goss "goss.yaml" { … } of a spec.
func (c *compiler) gossBlock(b *hcl.Block, all Check, sudo bool) []Check {
	content := c.content(b.Body, attributes("vars", "vars_file", "vars_files", "package", "skip", "tags", "when"))
	opt := GossOptions{Sudo: sudo}
	one := func(name string) string {
		if a := content.Attributes[name]; a != nil {
			if v, _ := c.value(a, cty.String); v != cty.NilVal {
				return v.AsString()
			}
		}
		return ""
	}
	opt.Package = one("package")
	if f := one("vars_file"); f != "" {
		opt.Vars = append(opt.Vars, f)
	}
	opt.Vars = append(opt.Vars, c.list(content.Attributes["vars_files"])...)
	if a := content.Attributes["vars"]; a != nil {
		v, sensitive := c.value(a, cty.NilType)
		if v != cty.NilVal {
			m, ok := gossValue(v).(map[string]any)
			if !ok {
				c.fail(a.Expr.Range(), "Unsuitable value for vars", "Names with values are expected, such as { env = \"prod\" }.")
			}
			opt.values, opt.sensitive = m, sensitive
		}
	}
	c.common(content.Attributes, &all)
	if a := content.Attributes["skip"]; a != nil && all.skip == "" {
		all.skip = c.reason(a)
	}
	if c.diags.HasErrors() {
		return nil
	}
	checks, diags := gossChecks(b.Labels[0], opt)
	c.diags = append(c.diags, diags...)
	for i := range checks {
		x := &checks[i]
		x.Tags, x.when = all.Tags, all.when
		if x.skip == "" {
			x.skip = all.skip
		}
	}
	return checks
}

// gossValue makes a Go value of one of the template's.
func gossValue(v cty.Value) any {
	switch t := v.Type(); {
	case v.IsNull():
		return nil
	case t == cty.String:
		return v.AsString()
	case t == cty.Bool:
		return v.True()
	case t == cty.Number:
		f := v.AsBigFloat()
		if n, exact := f.Int64(); exact == 0 && int64(int(n)) == n {
			return int(n)
		}
		x, _ := f.Float64()
		return x
	case t.IsMapType() || t.IsObjectType():
		out := map[string]any{}
		for k, e := range v.AsValueMap() {
			out[k] = gossValue(e)
		}
		return out
	}
	out := []any{}
	for _, e := range v.AsValueSlice() {
		out = append(out, gossValue(e))
	}
	return out
}
