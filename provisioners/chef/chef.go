// Package chef provisions the machine with Chef Infra Client, and installs it
// there if it is missing.
package chef

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/confmgmt"
	"github.com/ingotbuild/ingot/internal/render"
	"github.com/ingotbuild/ingot/internal/script"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// common are the options that both provisioners have.
type common struct {
	// RunList are the recipes and roles to run, in order, such as
	// `recipe[nginx]` or `role[web]`. It wins over a run_list in JSON.
	RunList []string `cfg:"run_list"`
	// JSON are the node's attributes, an object. JSONString is the same as a
	// JSON text; only one of them may be set. They may hold secrets: on the machine only the login
	// user can read them, and they are removed after the run.
	JSON       cty.Value `cfg:"json"`
	JSONString string    `cfg:"json_string"`
	// ChefEnvironment is the Chef environment of the node.
	ChefEnvironment string `cfg:"chef_environment"`
	// EncryptedDataBagSecretPath is a file on this host with the secret of
	// encrypted data bags. On the machine only the login user can read it, and
	// it is removed after the run, however that ends.
	EncryptedDataBagSecretPath string `cfg:"encrypted_data_bag_secret_path"`
	// ChefLicense accepts Chef's license: `accept`, `accept-silent` or
	// `accept-no-persist`. Default: accept-silent if Chef is installed by the
	// default InstallCommand.
	ChefLicense string `cfg:"chef_license"`
	// ConfigTemplate is a file on this host, a Go template of Chef's
	// configuration, for what the options do not cover.
	// [The guide](../configuration-management.md) has its variables.
	ConfigTemplate string `cfg:"config_template"`
	// SkipInstall never installs Chef. Otherwise it is installed if the machine
	// does not have it, or has another version than Version.
	SkipInstall bool `cfg:"skip_install"`
	// Version is the version of Chef to install, or its beginning, such as 18.
	// Default: the newest.
	Version string `cfg:"version"`
	// InstallCommand is the command that installs Chef, a Go template with
	// {{ .Sudo }} and {{ .Version }}. Default: Chef's own script, by curl and bash.
	InstallCommand string `cfg:"install_command" render:"late" vars:"Sudo Version"`
	// ExecuteCommand is the command that runs Chef, a Go template with
	// {{ .ConfigPath }}, {{ .JsonPath }} and {{ .Sudo }}. Default: Packer's, as
	// [the guide](../configuration-management.md) has it.
	ExecuteCommand string `cfg:"execute_command" render:"late" vars:"ConfigPath JsonPath Sudo"`
	// PreventSudo runs the commands without sudo. On Windows there is none.
	PreventSudo bool `cfg:"prevent_sudo"`
	// GuestOSType is the machine's family, `unix` or `windows`.
	GuestOSType string `cfg:"guest_os_type"`
}

var licenses = []string{"", "accept", "accept-silent", "accept-no-persist"}

var versionText = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*$`)

func (o *common) check(c *confmgmt.Checks, staging string, clean bool, templateVars []string) {
	windows := c.GuestOS(o.GuestOSType)
	c.Remote("staging_directory", staging, windows, clean)
	c.Path("encrypted_data_bag_secret_path", o.EncryptedDataBagSecretPath, confmgmt.File)
	c.Path("config_template", o.ConfigTemplate, confmgmt.File)
	if o.ConfigTemplate != "" {
		if text, err := os.ReadFile(c.Bake.Abs(o.ConfigTemplate)); err == nil {
			c.Template("config_template", string(text))
			if err := render.CheckNames(string(text), templateVars, c.Bake.Template); err != nil {
				// The builder may have values that are not known yet.
				c.Problems = append(c.Problems, config.Problem{Option: "config_template", Warning: true, Summary: fmt.Sprintf("config_template: %v.", err)})
			}
		}
	}
	c.Template("install_command", o.InstallCommand)
	c.Template("execute_command", o.ExecuteCommand)
	known := false
	for _, l := range licenses {
		known = known || o.ChefLicense == l
	}
	if !known {
		c.Bad("chef_license", "chef_license is %q: it must be accept, accept-silent or accept-no-persist.", o.ChefLicense)
	}
	if o.Version != "" && !versionText.MatchString(o.Version) {
		c.Bad("version", "version is %q: it must be a version such as 18.4.2, or its beginning.", o.Version)
	}
	if o.SkipInstall && o.InstallCommand != "" {
		c.Bad("install_command", "install_command is set, and skip_install says that it must not run.")
	}
	for i, entry := range o.RunList {
		if strings.TrimSpace(entry) == "" {
			c.Bad("run_list", "Entry %d of run_list is empty.", i+1)
		}
	}
	if o.JSONString != "" && !null(o.JSON) {
		c.Bad("json_string", "json and json_string are both set: keep one of them.")
	}
	if _, err := o.attributes(); err != nil {
		option := "json"
		if o.JSONString != "" {
			option = "json_string"
		}
		c.Bad(option, "%v.", err)
	}
}

func null(v cty.Value) bool { return v == cty.NilVal || v.IsNull() }

// attributes is the text of the node's attributes file.
func (o *common) attributes() ([]byte, error) {
	attrs := map[string]any{}
	text := []byte(o.JSONString)
	if o.JSONString == "" {
		if null(o.JSON) {
			text = []byte("{}")
		} else {
			v, _ := o.JSON.UnmarkDeep()
			var err error
			if text, err = ctyjson.Marshal(v, v.Type()); err != nil {
				return nil, fmt.Errorf("json cannot be written as JSON: %w", err)
			}
		}
	}
	// The text may hold secrets, and so may what a parser says of it.
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	if err := d.Decode(&attrs); err != nil || attrs == nil || d.More() {
		return nil, errors.New("the node's attributes are not one JSON object")
	}
	if len(o.RunList) > 0 {
		attrs["run_list"] = o.RunList
	}
	return json.MarshalIndent(attrs, "", "  ")
}

// run is one execution of Chef.
type run struct {
	*common
	env          *provisioners.Env
	m            machine.Machine
	program      string // chef-solo or chef-client
	staging      string
	windows      bool
	clean        bool
	trees        []*machine.Files
	secrets      []string
	after        []string
	knifeCommand string // the template's, or empty
	user         string // who runs Chef on Windows, or empty
	password     string
	report       *report
}

func (o *common) newRun(env *provisioners.Env, m machine.Machine, program, staging string) *run {
	r := &run{common: o, env: env, m: m, program: program, windows: confmgmt.Windows(o.GuestOSType), staging: strings.ReplaceAll(staging, `\`, "/"), report: &report{}}
	if staging == "" {
		r.staging = "/tmp/packer-" + program
		if r.windows {
			r.staging = "C:/Windows/Temp/packer-" + program
		}
	}
	return r
}

func (r *run) sudo() bool { return !r.PreventSudo && !r.windows }

func (r *run) at(name string) string { return path.Join(r.staging, name) }

// secret stages a file of this host that must not stay.
func (r *run) secret(local, name string) (remote string, err error) {
	if local == "" {
		return "", nil
	}
	tree, err := confmgmt.Secret(r.env.Bake().Abs(local), name)
	if err != nil {
		return "", err
	}
	r.trees = append(r.trees, tree)
	r.secrets = append(r.secrets, r.at(name))
	return r.at(name), nil
}

// dir stages a directory of this host.
func (r *run) dir(local, name string) (remote string) {
	if local == "" {
		return ""
	}
	r.trees = append(r.trees, machine.DirTree(r.env.Bake().Abs(local), name))
	return r.at(name)
}

// license is chef_license with its default.
func (r *run) license() string {
	if r.ChefLicense == "" && !r.SkipInstall && r.InstallCommand == "" {
		return "accept-silent"
	}
	return r.ChefLicense
}

// config makes Chef's configuration file: of the template, or of the lines.
func (r *run) config(name string, vars map[string]any, lines []string) error {
	text := strings.Join(lines, "\n") + "\n"
	if r.ConfigTemplate != "" {
		b := r.env.Bake()
		raw, err := os.ReadFile(b.Abs(r.ConfigTemplate))
		if err != nil {
			return err
		}
		if text, err = b.Render(string(raw), vars); err != nil {
			return fmt.Errorf("config_template: %w", err)
		}
	}
	// A template of one's own may hold secrets; Chef runs as root or as the login user.
	r.trees = append(r.trees, machine.BytesTree(name, []byte(text), 0o600))
	return nil
}

// setting is one line of Chef's configuration, which is Ruby.
func setting(name, value string) string { return name + " " + ruby(value) }

// ruby is a Ruby string, in which nothing is evaluated.
func ruby(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}

// words renders a command; the default ones are Packer's.
func (r *run) words(option, own, standard string, vars map[string]any, quote ...string) (string, error) {
	text := own
	if own == "" {
		// Templates in the wild quote for themselves where they have to; ours cannot know.
		text = standard
		for _, name := range quote {
			vars[name] = confmgmt.Quote(fmt.Sprint(vars[name]), r.windows)
		}
	}
	out, err := r.env.Bake().Render(text, vars)
	if err != nil {
		return "", fmt.Errorf("%s: %w", option, err)
	}
	return out, nil
}

func (r *run) install() (*confmgmt.Install, error) {
	if r.SkipInstall {
		return nil, nil
	}
	standard := "curl -L https://omnitruck.chef.io/install.sh | {{if .Sudo}}sudo {{end}}bash -s --{{if .Version}} -v {{.Version}}{{end}}"
	probe := "command -v " + r.program
	if r.Version != "" {
		// "Chef Infra Client: 18.4.2"
		v := r.Version
		probe += " && case \"$(" + r.program + " --version) \" in *' " + v + " '*|*' " + v + ".'*) ;; *) false ;; esac"
	}
	if r.windows {
		standard = `powershell.exe -Command ". { iwr -useb https://omnitruck.chef.io/install.ps1 } | iex; Install-Project{{if .Version}} -version {{.Version}}{{end}}"`
		bat := `c:\opscode\chef\bin\` + r.program + ".bat"
		probe = "dir /b " + bat
		if r.Version != "" {
			probe = "call " + bat + ` --version 2>nul | findstr /r /c:" ` + strings.ReplaceAll(r.Version, ".", `\.`) + `[. ]" /c:" ` + strings.ReplaceAll(r.Version, ".", `\.`) + `$"`
		}
	}
	command, err := r.words("install_command", r.InstallCommand, standard, map[string]any{"Sudo": r.sudo(), "Version": r.Version})
	if err != nil {
		return nil, err
	}
	return &confmgmt.Install{Probe: probe, Command: command}, nil
}

// run stages the attributes and runs Chef. configName and jsonName are its files.
func (r *run) run(ctx context.Context, configName, jsonName string) error {
	attrs, err := r.attributes()
	if err != nil {
		return err
	}
	r.trees = append(r.trees, machine.BytesTree(jsonName, attrs, 0o600))
	r.secrets = append(r.secrets, r.at(jsonName))
	install, err := r.install()
	if err != nil {
		return err
	}
	standard := "{{if .Sudo}}sudo {{end}}" + r.program
	if r.windows {
		standard = "c:/opscode/chef/bin/" + r.program + ".bat"
	}
	standard += " --no-color -c {{.ConfigPath}} -j {{.JsonPath}}"
	command, err := r.words("execute_command", r.ExecuteCommand, standard,
		map[string]any{"ConfigPath": r.at(configName), "JsonPath": r.at(jsonName), "Sudo": r.sudo()}, "ConfigPath", "JsonPath")
	if err != nil {
		return err
	}
	job := &confmgmt.Job{
		Env: r.env, Machine: r.m, Windows: r.windows, What: "Chef", Dir: r.staging, Tree: machine.Join(r.trees...),
		Secrets: r.secrets, Clean: r.clean, Install: install, Command: command, After: r.after, Line: r.report.line,
	}
	if err := job.RunAs(r.user, r.password); err != nil {
		return err
	}
	r.env.Events.Say("Running " + r.program)
	return job.Run(ctx, func(status int, tail *script.Tail) error { return r.report.judge(r.program, status, tail) })
}

// report is what Chef says of a run.
type report struct {
	updated int
	known   bool
	said    confmgmt.Said
	// block is the description of an error that is being read: what it is
	// about, the exception, its message.
	block []string
	rules int // lines of = and - seen in it
}

var (
	// "Chef Infra Client finished, 3/7 resources updated in 04 seconds" and, of
	// other versions and names, "Infra Phase complete, …".
	finished = regexp.MustCompile(`(?:finished|complete), (\d{1,9})/\d+ resources updated in `)
	failed   = regexp.MustCompile(`failed\. (\d{1,9}) resources updated in `)
	heading  = regexp.MustCompile(`^\s*(Error executing action .*|Recipe Compile Error.*|Error Resolving .*|Error connecting to .*|.*Error.* (?:on|in|for) .*)$`)
	fatal    = regexp.MustCompile(`^\[[^\]]*\] FATAL: (.*)$`)
	double   = regexp.MustCompile(`^\s*={20,}\s*$`)
	single   = regexp.MustCompile(`^\s*-{5,}\s*$`)
)

// line reads one line of Chef's output.
func (r *report) line(_, text string) {
	for _, re := range []*regexp.Regexp{finished, failed} {
		if m := re.FindStringSubmatch(text); m != nil {
			r.updated, _ = strconv.Atoi(m[1])
			r.known = true
		}
	}
	if m := fatal.FindStringSubmatch(text); m != nil && !strings.Contains(m[1], "Stacktrace dumped to") && !strings.Contains(m[1], "Please provide the contents of the stacktrace") {
		r.end()
		r.said.Add(m[1])
		return
	}
	// An error is a heading between two double rules, an exception over a
	// single rule, and its message up to an empty line.
	switch {
	case double.MatchString(text):
		if r.rules == 0 || r.rules > 1 {
			r.end()
			r.block, r.rules = []string{}, 1
		} else {
			r.rules = 2
		}
	case r.rules == 0:
	case r.rules == 1:
		if r.block = append(r.block, strings.TrimSpace(text)); !heading.MatchString(text) || len(r.block) > 1 {
			r.block, r.rules = nil, 0
		}
	case single.MatchString(text):
		if r.rules++; r.rules > 3 { // the next section, such as Resource Declaration
			if len(r.block) > 1 {
				r.block = r.block[:len(r.block)-1]
			}
			r.end()
		}
	case strings.TrimSpace(text) == "":
		if r.rules == 3 {
			r.end()
		}
	default:
		if r.block = append(r.block, strings.TrimSpace(text)); len(r.block) > 8 {
			r.end()
		}
	}
}

// end keeps the error that has been read.
func (r *report) end() {
	if len(r.block) > 1 {
		r.said.Add(strings.Join(r.block, " · "))
	}
	r.block, r.rules = nil, 0
}

// Changes is how many resources the run updated.
func (r *report) Changes() (int, bool) {
	if r == nil || !r.known {
		return 0, false
	}
	return r.updated, true
}

// judge says what the exit status means. Those above 2 are of Chef's RFC 62.
func (r *report) judge(program string, status int, tail *script.Tail) error {
	r.end()
	why := ""
	switch status {
	case 0:
		return nil
	case 126, 127:
		return fmt.Errorf("%s or another program of the command was not found on the machine (exit status %d); let skip_install be false, or, where there is no sudo, set prevent_sudo = true%s", program, status, tail)
	case 35:
		why = " (it has scheduled a reboot)"
	case 37:
		why = " (it needs a reboot)"
	case 41:
		why = " (the reboot it asked for failed)"
	case 42:
		why = " (audit mode failed)"
	case 43:
		why = " (the configuration is not usable)"
	case 172:
		why = " (Chef's license is not accepted: set chef_license)"
	case 213:
		why = " (it has upgraded itself and must run again)"
	}
	return fmt.Errorf("%s ended with exit status %d%s%s", program, status, why, r.said.Or(tail))
}
