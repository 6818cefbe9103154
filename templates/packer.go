package templates

import (
	"net/url"
	"strings"

	"github.com/hashicorp/go-version"
	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
)

var packerSchema = &hcl.BodySchema{
	Attributes: []hcl.AttributeSchema{{Name: "required_version"}},
	Blocks:     []hcl.BlockHeaderSchema{{Type: "required_plugins"}},
}

// packer checks a packer block. Plugins are parts of Ingot, so that what is
// required of them only says what the types of components mean.
func (l *loader) packer(b *hcl.Block) {
	content, diags := config.Content(b.Body, packerSchema)
	l.add(diags...)
	if a := content.Attributes["required_version"]; a != nil {
		if v := l.literal(a, cty.String); v != cty.NilVal {
			l.requiredVersion(a.Expr.Range(), v.AsString())
		}
	}
	for _, plugins := range content.Blocks {
		attrs, diags := plugins.Body.JustAttributes()
		l.add(diags...)
		for _, a := range inOrder(attrs) {
			l.requiredPlugin(a)
		}
	}
}

func (l *loader) requiredVersion(at hcl.Range, text string) {
	wanted, err := version.NewConstraint(text)
	if err != nil {
		l.add(failure(&at, "Invalid version constraint", "%q is no version constraint, such as \">= 1.9, < 2.0\".", text))
		return
	}
	if !wanted.Check(version.Must(version.NewVersion(PackerVersion))) {
		d := failure(&at, "Unsupported Packer version", "The template requires Packer %s. Ingot reads templates as Packer %s does.", text, PackerVersion)
		if l.t.Legacy {
			l.late = append(l.late, d)
		} else {
			l.add(d)
		}
	}
}

func (l *loader) requiredPlugin(a *hcl.Attribute) {
	at := a.Expr.Range()
	bad := func(format string, args ...any) {
		l.add(failure(&at, "Invalid plugin requirement", "Plugin %q: "+format, append([]any{a.Name}, args...)...))
	}
	v, diags := a.Expr.Value(nil)
	l.add(diags...)
	if diags.HasErrors() {
		return
	}
	if !v.Type().IsObjectType() || v.IsNull() {
		bad("write { source = \"github.com/owner/name\", version = \">= 1.0.0\" }.")
		return
	}
	if a.Name != strings.ToLower(a.Name) {
		bad("the name must be in lower case.")
	}
	text := map[string]string{}
	for key, part := range v.AsValueMap() {
		if (key != "source" && key != "version") || part.Type() != cty.String || part.IsNull() {
			bad("only \"source\" and \"version\" are allowed, each a string.")
			return
		}
		text[key] = part.AsString()
	}
	if len(text) != 2 {
		bad("both \"source\" and \"version\" are needed.")
		return
	}
	if c, err := version.NewConstraint(text["version"]); err != nil {
		bad("%q is no version constraint, such as \">= 1.0.0\".", text["version"])
	} else {
		for _, one := range c {
			if one.Prerelease() {
				bad("a constraint on a prerelease, %q, is not allowed.", one)
			}
		}
	}
	source := text["source"]
	parts := strings.Split(source, "/")
	u, err := url.Parse(source)
	switch last := parts[len(parts)-1]; {
	case err != nil || u.Scheme != "" || u.RawQuery != "" || u.Fragment != "" || strings.Contains(source, "//"):
		bad("the source %q must be host/owner/name, without a scheme, query or fragment.", source)
	case len(parts) < 3 || len(parts) > 16:
		bad("the source %q must be host/owner/name, of 3 to 16 parts.", source)
	case strings.HasPrefix(last, "packer-"):
		bad("the last part of the source %q is to be written without \"packer-plugin-\".", source)
	default:
		l.plugins[a.Name] = source
	}
	l.t.requirements = append(l.t.requirements, Requirement{a.Name, source, text["version"], at})
}
