package specs

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// A condition is a when whose answer depends on the machine.
type condition struct {
	expr hcl.Expression
	ctx  *hcl.EvalContext
	text string // where it stands, for messages
}

// A waiver bears a failing check until its day has passed.
type waiver struct {
	reason string
	until  string // as the spec has it
	end    time.Time
}

// conditions decides whether checks apply, once the platform is known.
type conditions struct {
	platform any // a platform, an error, or nil as long as nobody has asked
}

// platformVariables are what os has in a when.
func platformVariables() []string {
	return []string{"arch", "codename", "family", "id", "init", "kernel", "release"}
}

// when reads a condition. What depends on the machine is decided when that is
// known, everything else at once.
func (c *compiler) when(a *hcl.Attribute, check *Check) {
	machine := map[string]cty.Value{}
	for _, name := range platformVariables() {
		machine[name] = cty.UnknownVal(cty.String)
	}
	ctx := c.ctx.NewChild()
	ctx.Variables = map[string]cty.Value{"os": cty.ObjectVal(machine)}
	v, diags := a.Expr.Value(ctx)
	c.diags = append(c.diags, diags...)
	if diags.HasErrors() {
		return
	}
	v, _ = v.UnmarkDeep()
	v, err := convert.Convert(v, cty.Bool)
	switch {
	case err != nil || v.IsNull():
		c.fail(a.Expr.Range(), "Unsuitable value for when", "A condition is expected, such as os.family == \"debian\".")
	case v.IsKnown() && v.False():
		if check.skip == "" {
			check.skip = "when is false"
		}
	case v.IsKnown():
	default:
		for _, t := range a.Expr.Variables() {
			if t.RootName() == "os" {
				check.when = append(check.when[:len(check.when):len(check.when)], &condition{a.Expr, c.ctx, fmt.Sprintf("%s:%d", a.Range.Filename, a.Range.Start.Line)})
				return
			}
		}
		c.diags = append(c.diags, config.Unknown(a.Expr.Range(), "when"))
	}
}

// apply says whether a check applies to the machine. Where it does not, or
// where nobody can tell, the result has its verdict.
func (c *conditions) apply(check Check, r *Result) bool {
	for _, w := range check.when {
		ok, why, err := w.holds(c.platform)
		if err != nil {
			r.Status, r.Message = Error, Clean("whether it applies could not be found out: "+err.Error())
			return false
		}
		if !ok {
			r.Status, r.Message = Skip, Clean(why)
			return false
		}
	}
	return true
}

func (w *condition) holds(fact any) (bool, string, error) {
	p, ok := fact.(platform)
	if !ok {
		if err, ok := fact.(error); ok {
			return false, "", err
		}
		return false, "", errors.New("the machine gave no answer")
	}
	vars := map[string]cty.Value{}
	for _, name := range platformVariables() {
		vars[name] = cty.StringVal(p[name])
	}
	ctx := w.ctx.NewChild()
	ctx.Variables = map[string]cty.Value{"os": cty.ObjectVal(vars)}
	v, diags := w.expr.Value(ctx)
	if diags.HasErrors() {
		return false, "", diags
	}
	v, _ = v.UnmarkDeep()
	v, err := convert.Convert(v, cty.Bool)
	if err != nil || !v.IsKnown() || v.IsNull() {
		return false, "", fmt.Errorf("the condition at %s is neither true nor false", w.text)
	}
	var seen []string
	for _, t := range w.expr.Variables() {
		if len(t) < 2 || t.RootName() != "os" {
			continue
		}
		if step, ok := t[1].(hcl.TraverseAttr); ok {
			seen = append(seen, fmt.Sprintf("os.%s is %q", step.Name, p[step.Name]))
		}
	}
	return v.True(), "when is false: " + strings.Join(seen, ", "), nil
}

// reason reads why something is left out.
func (c *compiler) reason(a *hcl.Attribute) string {
	if v, sensitive := c.value(a, cty.NilType); v != cty.NilVal {
		if sensitive {
			c.fail(a.Expr.Range(), "Unsuitable value for "+a.Name, "A reason is shown in every report, and this one is sensitive.")
			return ""
		}
		if v.Type() == cty.String && strings.TrimSpace(v.AsString()) != "" {
			return v.AsString()
		}
		c.fail(a.Expr.Range(), "Unsuitable value for "+a.Name, "Say in words why, e.g. "+a.Name+" = \"fixed in the next release\".")
	}
	return ""
}

// elements gives the each object for every element of a for_each.
func (c *compiler) elements(a *hcl.Attribute) []cty.Value {
	v, sensitive := c.value(a, cty.NilType)
	t := v.Type()
	switch {
	case v == cty.NilVal:
		return nil
	case sensitive:
		c.fail(a.Expr.Range(), "Unsuitable value for for_each", "The elements are shown in every report, and these are sensitive.")
		return nil
	case !v.CanIterateElements():
		c.fail(a.Expr.Range(), "Unsuitable value for for_each", "A map, or a list of strings, is expected.")
		return nil
	}
	var out []cty.Value
	seen := map[string]bool{}
	for it := v.ElementIterator(); it.Next(); {
		key, val := it.Element()
		if !t.IsMapType() && !t.IsObjectType() {
			var err error
			if key, err = convert.Convert(val, cty.String); err != nil || key.IsNull() {
				c.fail(a.Expr.Range(), "Unsuitable value for for_each", "A list here holds strings. For more than a string each, write a map.")
				return nil
			}
		}
		if seen[key.AsString()] {
			c.fail(a.Expr.Range(), "Unsuitable value for for_each", fmt.Sprintf("%q stands in it twice.", key.AsString()))
			return nil
		}
		seen[key.AsString()] = true
		out = append(out, cty.ObjectVal(map[string]cty.Value{"key": key, "value": val}))
	}
	return out
}

func (c *compiler) waiver(blocks hcl.Blocks, check *Check) {
	if len(blocks) > 1 {
		c.fail(blocks[1].DefRange, "Duplicate waive block", "A resource has one waive block.")
	}
	for _, b := range blocks {
		content := c.content(b.Body, &hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "reason", Required: true}, {Name: "until", Required: true}}})
		w := &waiver{}
		if a := content.Attributes["reason"]; a != nil {
			w.reason = c.reason(a)
		}
		if a := content.Attributes["until"]; a != nil {
			if v, _ := c.value(a, cty.String); v != cty.NilVal {
				day, err := time.Parse(time.DateOnly, v.AsString())
				if err != nil {
					c.fail(a.Expr.Range(), "Unsuitable value for until", fmt.Sprintf("%q is not a day such as \"2031-12-31\".", v.AsString()))
				}
				w.until, w.end = v.AsString(), day.AddDate(0, 0, 1)
			}
		}
		check.waive = w
	}
}

// apply changes the result of a check that failed, and says whether it is to
// be made again.
func (w *waiver) apply(r *Result, now time.Time) (again bool) {
	if now.Before(w.end) {
		r.Status, r.Message = Waived, Clean("waived until "+w.until+": "+w.reason)
		return false
	}
	r.Message = Clean("its waiver ended on " + w.until + ": " + w.reason)
	return true
}

// A platform is what a when can ask about, by the names of platformVariables.
type platform map[string]string

var platforms = &kind{
	name: "platform",
	script: `echo "kernel=$(uname -s)"
echo "arch=$(uname -m)"
if [ -d /run/systemd/system ]; then echo init=systemd
elif [ -e /run/openrc/softlevel ]; then echo init=openrc
elif read -r c </proc/1/comm && [ "$c" = init ]; then echo init=sysv
else echo init=none; fi 2>/dev/null
for f in /etc/os-release /usr/lib/os-release; do [ -r $f ] && { sed 's/^/+/' $f; break; }; done
for f in /etc/system-release /etc/redhat-release /etc/alpine-release; do [ -r $f ] && sed "s|^|$f:|" $f; done
exit 0`,
	read: func(a answer, subjects []string) (facts, error) {
		p, err := readPlatform(a)
		if err != nil {
			return nil, err
		}
		result := facts{}
		for _, s := range subjects {
			result[s] = p
		}
		return result, nil
	},
}

// families are the distributions that do not name the one that they are like.
var families = map[string]string{
	"debian": "debian", "ubuntu": "debian", "raspbian": "debian", "devuan": "debian", "kali": "debian", "linuxmint": "debian",
	"rhel": "redhat", "fedora": "redhat", "centos": "redhat", "amzn": "redhat", "rocky": "redhat", "almalinux": "redhat", "ol": "redhat",
	"alpine": "alpine", "sles": "suse", "suse": "suse", "opensuse": "suse", "opensuse-leap": "suse", "opensuse-tumbleweed": "suse",
	"arch": "arch", "archarm": "arch", "manjaro": "arch", "gentoo": "gentoo", "freebsd": "freebsd",
}

func readPlatform(a answer) (platform, error) {
	p, release := platform{}, map[string]string{}
	for _, l := range lines(a.out) {
		if l, ok := strings.CutPrefix(l, "+"); ok {
			if k, v, ok := strings.Cut(l, "="); ok {
				release[k] = strings.Trim(strings.TrimSpace(v), `"'`)
			}
			continue
		}
		if f, text, ok := strings.Cut(l, ":"); ok && strings.HasPrefix(f, "/etc/") {
			if release[f] == "" {
				release[f] = text
			}
			continue
		}
		if k, v, ok := strings.Cut(l, "="); ok {
			p[k] = v
		}
	}
	if a.status != 0 || p["kernel"] == "" || p["init"] == "" {
		return nil, failed(a, "the question for the platform")
	}
	p["kernel"] = strings.ToLower(p["kernel"])
	switch m := p["arch"]; m {
	case "x86_64":
		p["arch"] = "amd64"
	case "aarch64":
		p["arch"] = "arm64"
	case "i386", "i486", "i586", "i686":
		p["arch"] = "386"
	case "armv6l", "armv7l":
		p["arch"] = "arm"
	}
	p["id"], p["release"], p["codename"] = release["ID"], release["VERSION_ID"], release["VERSION_CODENAME"]
	if p["id"] == "" { // RHEL 6 and its like, and old Alpines
		switch old := release["/etc/redhat-release"] + release["/etc/system-release"]; {
		case old != "":
			p["id"] = "rhel"
			for _, w := range strings.Fields(old) {
				if w[0] >= '0' && w[0] <= '9' {
					p["release"] = w
					break
				}
			}
		case release["/etc/alpine-release"] != "":
			p["id"], p["release"] = "alpine", release["/etc/alpine-release"]
		case p["kernel"] != "linux":
			p["id"] = p["kernel"]
		}
	}
	for _, id := range append([]string{p["id"]}, strings.Fields(release["ID_LIKE"])...) {
		if f := families[id]; f != "" && p["family"] == "" {
			p["family"] = f
		}
	}
	if p["family"] == "" {
		p["family"] = p["id"]
	}
	if p["id"] == "" {
		return nil, errors.New("the machine has no /etc/os-release")
	}
	return p, nil
}
