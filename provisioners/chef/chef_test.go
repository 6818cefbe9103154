package chef

import (
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"

	. "github.com/ingotbuild/ingot/internal/confmgmt/confmgmttest"
	"github.com/ingotbuild/ingot/internal/script"
)

func TestCheckSolo(t *testing.T) {
	env, _ := Env(t, map[string]string{"dir/x": "", "file": ""})
	for name, tc := range map[string]struct {
		o    SoloOptions
		want string
	}{
		"good":        {SoloOptions{CookbookPaths: []string{"dir"}, EnvironmentsPath: "dir", common: common{ChefEnvironment: "prod", Version: "18.4"}}, ""},
		"nothing":     {SoloOptions{}, ""},
		"all at once": {SoloOptions{CookbookPaths: []string{"no", "", "file"}, RemoteCookbookPaths: []string{""}, RolesPath: "file", DataBagsPath: "no", EnvironmentsPath: "no", StagingDir: "x", common: common{GuestOSType: "beos", EncryptedDataBagSecretPath: "dir", ConfigTemplate: "no", InstallCommand: "{{", ExecuteCommand: "{{", ChefLicense: "yes", Version: "; rm -rf /", RunList: []string{" "}, JSONString: "["}}, "cookbook_paths cookbook_paths cookbook_paths remote_cookbook_paths roles_path data_bags_path environments_path guest_os_type staging_directory encrypted_data_bag_secret_path config_template install_command execute_command chef_license version run_list json_string"},
		"environment": {SoloOptions{common: common{ChefEnvironment: "prod"}}, "chef_environment"},
		"install":     {SoloOptions{common: common{SkipInstall: true, InstallCommand: "x"}}, "install_command"},
		"two JSONs":   {SoloOptions{common: common{JSON: cty.EmptyObjectVal, JSONString: "{}"}}, "json_string"},
		"JSON list":   {SoloOptions{common: common{JSON: cty.EmptyTupleVal}}, "json"},
		"JSON twice":  {SoloOptions{common: common{JSONString: "{} {}"}}, "json_string"},
		"JSON null":   {SoloOptions{common: common{JSONString: "null"}}, "json_string"},
	} {
		if got := Problems(t, &Solo{o: tc.o}, env); got != tc.want {
			t.Errorf("%s: problems with\n%q, want\n%q", name, got, tc.want)
		}
	}
}

func TestCheckClient(t *testing.T) {
	env, _ := Env(t, map[string]string{"dir/x": "", "file": ""})
	for name, tc := range map[string]struct {
		o    ClientOptions
		want string
	}{
		"good":        {ClientOptions{ServerURL: "https://h/organizations/o", PolicyName: "p", PolicyGroup: "g"}, ""},
		"nothing":     {ClientOptions{}, "server_url"},
		"address":     {ClientOptions{ServerURL: "chef.example"}, "server_url"},
		"files":       {ClientOptions{ServerURL: "http://h", ValidationKeyPath: "no", SSLCertPath: "dir"}, "validation_key_path ssl_cert_path"},
		"half policy": {ClientOptions{ServerURL: "http://h", PolicyName: "p"}, "policy_name"},
		"other half":  {ClientOptions{ServerURL: "http://h", PolicyGroup: "p"}, "policy_group"},
		"run list":    {ClientOptions{ServerURL: "http://h", PolicyName: "p", PolicyGroup: "g", common: common{RunList: []string{"x"}}}, "run_list"},
		"environment": {ClientOptions{ServerURL: "http://h", PolicyName: "p", PolicyGroup: "g", common: common{ChefEnvironment: "x"}}, "chef_environment"},
		"verify":      {ClientOptions{ServerURL: "http://h", SSLVerifyMode: "none"}, "ssl_verify_mode"},
		"no verify":   {ClientOptions{ServerURL: "http://h", SSLVerifyMode: "verify_none"}, "ssl_verify_mode?"},
		"node":        {ClientOptions{ServerURL: "http://h", NodeName: "-a b"}, "node_name"},
		"knife":       {ClientOptions{ServerURL: "http://h", KnifeCommand: "x", SkipCleanNode: true, SkipCleanClient: true}, "knife_command"},
		"elevated":    {ClientOptions{ServerURL: "http://h", ElevatedUser: "x"}, "elevated_user"},
		"no user":     {ClientOptions{ServerURL: "http://h", ElevatedPassword: "x"}, "elevated_password"},
		"staging":     {ClientOptions{ServerURL: "http://h", StagingDir: "/var/tmp/"}, "staging_directory"},
		"but kept":    {ClientOptions{ServerURL: "http://h", StagingDir: "/var/tmp/", SkipCleanStagingDirectory: true}, ""},
	} {
		if got := Problems(t, &Client{o: tc.o}, env); got != tc.want {
			t.Errorf("%s: problems with %q, want %q", name, got, tc.want)
		}
	}
}

func TestJSON(t *testing.T) {
	o := common{RunList: []string{"role[web]"}, JSON: cty.ObjectVal(map[string]cty.Value{
		"run_list": cty.StringVal("mine"), "a": cty.ObjectVal(map[string]cty.Value{"b": cty.TupleVal([]cty.Value{cty.NumberIntVal(1), cty.True, cty.NullVal(cty.String)})}),
	})}
	got, err := o.attributes()
	if want := `{"a":{"b":[1,true,null]},"run_list":["role[web]"]}`; err != nil || strings.Join(strings.Fields(string(got)), "") != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}

// What the several versions and names of Chef say at the end of a run.
func TestSummary(t *testing.T) {
	for text, want := range map[string]int{
		"Chef Client finished, 1/2 resources updated in 2.3 seconds":         1,
		"Chef Infra Client finished, 3/7 resources updated in 01 minutes":    3,
		"Cinc Client finished, 0/7 resources updated in 04 seconds":          0,
		"Infra Phase complete, 12/77 resources updated in 04 seconds":        12,
		"Infra Phase failed. 4 resources updated in 04 seconds":              4,
		"Chef Client failed. 0 resources updated in 04 seconds":              0,
		"finished, 99999999999999999999/1 resources updated in":              -1,
		"[2026-01-02T03:04:05+00:00] INFO: Chef Run complete in 3.4 seconds": -1,
		"  * log[finished, 1 resources updated] action write":                -1,
	} {
		r := &report{}
		r.line("stdout", text)
		if n, known := r.Changes(); known != (want >= 0) || known && n != want {
			t.Errorf("%q: %d changes (known: %v), want %d", text, n, known, want)
		}
	}
}

func FuzzOutput(f *testing.F) {
	for _, s := range []string{
		"====================\nError executing action `run` on resource 'x'\n====================\n\nE\n-----\nm1\nm2\n\nDeclaration:\n------\n", "[x] FATAL: y", "====================\n====================\n-----\n-----\n-----\n",
		"Chef Infra Client finished, 3/7 resources updated in 04 seconds",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := &report{}
		for line := range strings.SplitSeq(s, "\n") {
			r.line("stdout", line)
		}
		err := r.judge("chef-solo", 1, &script.Tail{})
		if n, known := r.Changes(); n < 0 || n > 0 && !known {
			t.Errorf("%d changes, known: %v", n, known)
		}
		if err == nil || len(err.Error()) > 20<<10 {
			t.Errorf("error %.100v", err)
		}
	})
}
