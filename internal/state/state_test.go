package state

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// set gives the variables that Dir reads; those not named are empty.
func set(t *testing.T, vars map[string]string) {
	for _, name := range []string{"INGOT_HOME", "XDG_DATA_HOME", "HOME", "LocalAppData"} {
		t.Setenv(name, vars[name])
	}
}

func TestDirIsWhereItShouldBe(t *testing.T) {
	tmp := t.TempDir()
	usual := map[string]string{
		"windows": filepath.Join(tmp, "appdata", "ingot"),
		"darwin":  filepath.Join(tmp, "home", "Library", "Application Support", "ingot"),
	}[runtime.GOOS]
	if usual == "" {
		usual = filepath.Join(tmp, "home", ".local", "share", "ingot")
	}
	for _, test := range []struct {
		name, ingot, xdg, want string
	}{
		{"the usual place", "", "", usual},
		{"relative XDG_DATA_HOME is ignored", "", "data", usual},
		{"XDG_DATA_HOME", "", filepath.Join(tmp, "xdg"), filepath.Join(tmp, "xdg", "ingot")},
		{"INGOT_HOME first", filepath.Join(tmp, "own"), filepath.Join(tmp, "xdg"), filepath.Join(tmp, "own")},
	} {
		t.Run(test.name, func(t *testing.T) {
			set(t, map[string]string{
				"INGOT_HOME": test.ingot, "XDG_DATA_HOME": test.xdg,
				"HOME": filepath.Join(tmp, "home"), "LocalAppData": filepath.Join(tmp, "appdata"),
			})
			for range 2 { // made, then found
				dir, err := Dir()
				if err != nil {
					t.Fatal(err)
				}
				if dir != test.want {
					t.Errorf("Dir() = %s, want %s", dir, test.want)
				}
			}
			info, err := os.Stat(test.want)
			if err != nil {
				t.Fatal(err)
			}
			if runtime.GOOS != "windows" && info.Mode().Perm() != 0o700 {
				t.Errorf("mode %v, want 0700", info.Mode().Perm())
			}
			if left, _ := os.ReadDir(test.want); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestDirRefuses(t *testing.T) {
	tmp := t.TempDir()
	file := filepath.Join(tmp, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(tmp, "open")
	readOnly := filepath.Join(tmp, "read-only")
	for dir, mode := range map[string]os.FileMode{open: 0o777, readOnly: 0o500} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name string
		vars map[string]string
		want string
		skip string
	}{
		{name: "nothing set", want: "INGOT_HOME", vars: nil, skip: windows("has no HOME")},
		{name: "relative", want: "absolute", vars: map[string]string{"INGOT_HOME": "here"}},
		{name: "relative home", want: "absolute", vars: map[string]string{"HOME": "here"}},
		{name: "a file", want: file, vars: map[string]string{"INGOT_HOME": file}},
		{name: "below a file", want: file, vars: map[string]string{"INGOT_HOME": filepath.Join(file, "x")}},
		{name: "writable by others", want: "written by others", vars: map[string]string{"INGOT_HOME": open}, skip: windows("has no mode bits")},
		{name: "not writable", want: "INGOT_HOME", vars: map[string]string{"INGOT_HOME": readOnly}, skip: root()},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.skip != "" {
				t.Skip(test.skip)
			}
			set(t, test.vars)
			dir, err := Dir()
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Dir() = %q, %v; want an error with %q", dir, err, test.want)
			}
		})
	}
}

func windows(why string) string {
	if runtime.GOOS == "windows" {
		return "Windows " + why
	}
	return ""
}

func root() string {
	if os.Geteuid() <= 0 { // -1 on Windows
		return "root may write anywhere, and Windows has no mode bits"
	}
	return ""
}
