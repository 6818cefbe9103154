// Package goss reads goss files: the format, its templates and includes, the
// resources and the matchers, which are evaluated on plain Go values, and the
// formats in which goss prints results. It asks no machine; package specs does.
//
// The format is that of goss 0.4 and of what its repository has added since.
package goss

import "slices"

// A Kind is one kind of resource: a key of the file.
type Kind struct {
	// Key stands in the file ("kernel-param"), Type in results ("KernelParam").
	Key, Type string
	// Subject is the attribute that overrides the subject, which otherwise is
	// the resource's own key.
	Subject string
	// Attributes are what is checked, in the order of the results.
	Attributes []Attribute
	// Options say how to ask.
	Options []Option
	// Gated says that nothing else is checked of a subject whose first
	// attribute is false, or not as expected.
	Gated bool
}

// An Attribute is one thing that is checked.
type Attribute struct {
	// Name stands in the file, Property in results. Alias is another name, of an
	// older goss.
	Name, Property, Alias string
	Required              bool
	// Reader says that a list stands for patterns that lines are held against.
	Reader bool
	// Digits says that a text of digits is taken for the number.
	Digits bool
}

// An OptionType is what an option's value has to be.
type OptionType string

const (
	Text         OptionType = "text"
	Texts        OptionType = "list of texts"
	Bool         OptionType = "bool"
	Number       OptionType = "number"
	Milliseconds OptionType = "milliseconds"
	Delay        OptionType = "milliseconds, or a duration such as 2s"
	Any          OptionType = "anything"
)

// An Option is an attribute that is not checked itself.
type Option struct {
	Name string
	Type OptionType
}

// Common is what every resource may say besides.
func Common() []string { return []string{"title", "meta", "skip"} }

// Kinds is everything that a file may hold besides gossfile, in the order of
// sorted results.
func Kinds() []Kind {
	first := func(name string) Attribute { return Attribute{Name: name, Property: name, Required: true} }
	more := func(names ...string) (out []Attribute) {
		for _, n := range names {
			out = append(out, Attribute{Name: n, Property: n})
		}
		return out
	}
	as := func(name, property string, reader bool) Attribute {
		return Attribute{Name: name, Property: property, Reader: reader}
	}
	digits := func(a Attribute) Attribute { a.Digits = true; return a }
	join := slices.Concat[[]Attribute]
	timeout := Option{"timeout", Milliseconds}
	retry := []Option{{"retry_count", Number}, {"retry_delay", Delay}}
	return []Kind{
		{Key: "addr", Type: "Addr", Subject: "address", Attributes: []Attribute{first("reachable")}, Options: []Option{{"local-address", Text}, timeout}},
		{
			Key: "command", Type: "Command", Subject: "exec",
			Attributes: []Attribute{digits(first("exit-status")), as("stdout", "stdout", true), as("stderr", "stderr", true)},
			Options:    append([]Option{timeout}, retry...),
		},
		{
			Key: "dns", Type: "DNS", Subject: "resolve", Gated: true,
			Attributes: []Attribute{{Name: "resolvable", Property: "resolvable", Alias: "resolveable", Required: true}, as("addrs", "addrs", false)},
			Options:    append([]Option{{"server", Text}, timeout}, retry...),
		},
		{
			Key: "file", Type: "File", Subject: "path", Gated: true,
			Attributes: join([]Attribute{first("exists")}, more("mode", "owner", "uid", "group", "gid"),
				[]Attribute{as("linked-to", "linkedto", false), as("filetype", "filetype", false), as("contains", "contains", true), as("contents", "contents", true)},
				more("size", "md5", "sha256", "sha512")),
		},
		{Key: "group", Type: "Group", Subject: "groupname", Gated: true, Attributes: []Attribute{first("exists"), digits(as("gid", "gid", false))}},
		{
			Key: "http", Type: "HTTP", Subject: "url", Gated: true,
			Attributes: []Attribute{first("status"), as("headers", "Headers", true), as("body", "Body", true)},
			Options: []Option{{"method", Text}, {"allow-insecure", Bool}, {"no-follow-redirects", Bool}, timeout, {"request-headers", Texts}, {"request-body", Text},
				{"username", Text}, {"password", Text}, {"ca-file", Text}, {"cert-file", Text}, {"key-file", Text}, {"proxy", Text}},
		},
		{Key: "interface", Type: "Interface", Subject: "name", Gated: true, Attributes: append([]Attribute{first("exists")}, more("addrs", "mtu")...)},
		{Key: "kernel-param", Type: "KernelParam", Subject: "name", Attributes: []Attribute{first("value")}},
		{Key: "matching", Type: "Matching", Attributes: []Attribute{first("matches")}, Options: []Option{{"content", Any}, {"as-reader", Bool}}},
		{
			Key: "mount", Type: "Mount", Subject: "mountpoint", Gated: true,
			Attributes: append([]Attribute{first("exists")}, more("opts", "vfs-opts", "source", "filesystem", "usage")...), Options: []Option{timeout},
		},
		{Key: "package", Type: "Package", Subject: "name", Gated: true, Attributes: []Attribute{first("installed"), as("versions", "version", false)}, Options: retry},
		{Key: "port", Type: "Port", Subject: "port", Gated: true, Attributes: []Attribute{first("listening"), as("ip", "ip", false)}},
		{Key: "process", Type: "Process", Subject: "comm", Attributes: []Attribute{first("running")}},
		{Key: "registry", Type: "Registry", Subject: "name", Gated: true, Attributes: append([]Attribute{first("exists")}, more("value", "type")...)},
		{Key: "service", Type: "Service", Subject: "name", Attributes: more("enabled", "running", "runlevels")},
		{
			Key: "user", Type: "User", Subject: "username", Gated: true,
			Attributes: join([]Attribute{first("exists"), digits(as("uid", "uid", false)), digits(as("gid", "gid", false))}, more("home", "groups", "shell")),
		},
	}
}

// names gives all attributes that a resource of the kind may have.
func (k Kind) names() []string {
	out := Common()
	if k.Subject != "" {
		out = append(out, k.Subject)
	}
	for _, a := range k.Attributes {
		out = append(out, a.Name)
		if a.Alias != "" {
			out = append(out, a.Alias)
		}
	}
	for _, o := range k.Options {
		out = append(out, o.Name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
