package puppet

import (
	"strings"
	"testing"

	. "github.com/ingotbuild/ingot/internal/confmgmt/confmgmttest"
	"github.com/ingotbuild/ingot/internal/script"
)

func TestCheck(t *testing.T) {
	env, _ := Env(t, map[string]string{"dir/x": "", "file": ""})
	for name, tc := range map[string]struct {
		o    MasterlessOptions
		want string
	}{
		"good":        {MasterlessOptions{ManifestFile: "file", ModulePaths: []string{"dir"}}, ""},
		"a directory": {MasterlessOptions{ManifestFile: "dir", ManifestDir: "dir"}, "manifest_dir?"},
		"nothing":     {MasterlessOptions{}, "manifest_file"},
		"all at once": {MasterlessOptions{ManifestFile: "no", ManifestDir: "file", ModulePaths: []string{"", "no", "file"}, HieraConfigPath: "dir", StagingDir: "x", ExecuteCommand: "{{", common: common{GuestOSType: "x", ExtraArguments: []string{"{{"}, Facter: map[string]string{"a-b": "", "1": ""}, ElevatedPassword: "x"}}, "manifest_file manifest_dir module_paths module_paths module_paths hiera_config_path guest_os_type execute_command extra_arguments facter facter staging_directory elevated_password"},
		"destroys":    {MasterlessOptions{ManifestFile: "file", StagingDir: "/etc", common: common{CleanStagingDir: true}}, "staging_directory"},
		"windows":     {MasterlessOptions{ManifestFile: "file", StagingDir: `C:\x y`, common: common{GuestOSType: "windows", Facter: map[string]string{"a": `%PATH%`}}}, "facter"},
	} {
		if got := Problems(t, &Masterless{o: tc.o}, env); got != tc.want {
			t.Errorf("%s: problems with\n%q, want\n%q", name, got, tc.want)
		}
	}
	if got := Problems(t, &Server{o: ServerOptions{ClientCertPath: "file", ClientPrivateKeyPath: "no", StagingDir: "x"}}, env); got != "client_cert_path client_private_key_path staging_dir" {
		t.Errorf("server: problems with %q", got)
	}
	if got := Problems(t, NewServer(), env); got != "" {
		t.Errorf("a server needs no option, and there are problems with %q", got)
	}
}

func TestReport(t *testing.T) {
	r := &report{}
	for _, line := range []string{
		"Notice: /Stage[main]/Main/File[/a [b]: c]/ensure: defined content as '{sha256}ba'",
		"Notice: /Stage[main]/Web/Exec[make]/returns: compiling",
		"Notice: /Stage[main]/Web/Exec[make]/returns: executed successfully",
		"Notice: /Stage[main]/Web/Exec[again]: Triggered 'refresh' from 1 event",
		"Notice: /Stage[main]/Web/File[/x]/mode: current_value '0644', should be '0600' (noop)",
		"Notice: Applied catalog in 0.11 seconds",
	} {
		r.line("stdout", line)
	}
	if err := r.judge(0, false, &script.Tail{}); err != nil {
		t.Error(err)
	}
	if n, known := r.Changes(); n != 2 || !known {
		t.Errorf("%d changes (known: %v), want 2", n, known)
	}
}

func FuzzOutput(f *testing.F) {
	f.Add("Notice: /Stage[main]/Main/File[/a]/ensure: created\nNotice: Applied catalog in 1 s", 2, true)
	f.Add("Error: /Stage[main]/Main/Exec[x]/returns: no\nError: x", 6, true)
	f.Fuzz(func(t *testing.T, s string, status int, detailed bool) {
		r := &report{}
		for line := range strings.SplitSeq(s, "\n") {
			r.line("stdout", line)
		}
		err := r.judge(status, detailed, &script.Tail{})
		if n, known := r.Changes(); n < 0 || n > 0 && !known {
			t.Errorf("%d changes, known: %v", n, known)
		}
		if (err == nil) != (status == 0 || detailed && status == 2) {
			t.Errorf("status %d (detailed: %v) gives %v", status, detailed, err)
		}
		if err != nil && len(err.Error()) > 20<<10 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	})
}
