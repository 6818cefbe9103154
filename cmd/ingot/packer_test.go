package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// packer returns the path of Packer, beside which the tests below put Ingot.
func packer(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("packer")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal("there is no packer on the PATH")
	}
	if err != nil {
		t.Skip("there is no packer on the PATH to compare with")
	}
	return path
}

// answer runs a program in dir and returns what it prints and its exit status.
func answer(t *testing.T, dir, stdin, program string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), asProgram+"=1", "INGOT_HOME="+t.TempDir(), "CHECKPOINT_DISABLE=1", "PACKER_NO_COLOR=1")
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

const declarations = `
variable "plain" { default = "x" }
variable "unset" { type = string }
variable "secret" {
  default   = "hunter2-hunter2"
  sensitive = true
}
variable "n" { default = 3 }
variable "obj" { default = { a = [1, 2], b = "z" } }
variable "nothing" { default = null }
variable "lines" { default = "a\nb \"c\"" }
variables { short = "y" }
locals {
  one  = "${var.plain}-1"
  list = ["a", 1, true]
}
`

func TestConsoleAsPacker(t *testing.T) {
	peer := packer(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"t/t.pkr.hcl": declarations})
	// A process for each takes its time: what can be in one list is.
	values := []string{
		"true", "null", "-5", "upper(local.one)", "local.list", "var.obj", "var.obj.a[0]", "var.nothing", "var.lines",
		`"${var.plain}${var.n}"`, `"{{timestamp}}"`, "path.root", `"a\tb\u0001é"`, `""`,
		"1.50", "3.0", "1e30", "1234567", "1234567.5", "123456789012345", "12345678901234567890", "0.00001", "10/4", "1/3",
		"[]", "{}", "[{}]", "[[]]", `{ a = {}, b = [], c = null, d = "q\"x\n" }`, `{ "a b" = 1 }`, `{ a = [1, { b = 2 }] }`,
		`setunion(["b"], ["a"])`, `merge({ a = 1 }, { b = "2" })`, "keys(var.obj)", "length(local.list)", "jsonencode({ a = 1 })", `true ? 1 : "a"`, "max(1, 2)",
		"[for x in local.list : x]", `{ for k, v in { a = 1 } : k => v + 1 }`, `format("%s-%d", "a", 2)`, `join(",", ["a", "b"])`, `split(",", "a,b")`,
	}
	for _, in := range []string{
		"[" + strings.Join(values, ", ") + "]\n", "", "\n\n", "1", "1\n\n", "1\nexit\n", "exit\n  2  \n", "1 # c\n", "null", "[]",
		"var.plain", "var.obj", "var.lines", `""`, "1e30", "var.unset", "[var.unset]", "var.secret", "variables",
		"var.nope\n", "1\nbad(\n", "bad(\n1\n", `"unclosed`, "nofunction(1)",
	} {
		want, wantStatus := answer(t, dir, in, peer, "console", "t")
		have, status := answer(t, dir, in, self(t), "console", "t")
		if wantStatus != 0 { // what is wrong is said in other words
			want, have = lastLine(want), lastLine(have)
		}
		if have != want || status != wantStatus {
			t.Errorf("%q: Packer (exit status %d):\n%sIngot (exit status %d):\n%s", in, wantStatus, want, status, have)
		}
	}
}

func lastLine(s string) string {
	s = strings.TrimSuffix(s, "\n")
	return s[strings.LastIndexByte(s, '\n')+1:] + "\n"
}

func TestInspectAsPacker(t *testing.T) {
	peer := packer(t)
	const sources = `
source "null" "a" { communicator = "none" }
source "null" "b" { communicator = "none" }
`
	for name, text := range map[string]string{
		"values only": declarations + sources + `build { sources = ["null.a"] }`,
		"no values":   sources + `build { sources = ["source.null.a", "null.b"] }`,
		"steps": sources + `
build {
  name        = "web"
  description = "A build\nof two lines."
  sources     = ["null.a", "source.null.b"]
  provisioner "shell-local" {
    name   = "greet"
    inline = ["echo hi"]
  }
  provisioner "shell-local" {
    only   = ["null.a"]
    inline = ["echo hi"]
  }
  post-processor "manifest" {}
  post-processors {
    post-processor "checksum" { name = "sums" }
    post-processor "manifest" {}
  }
}
build { sources = ["null.a"] }
build {
  sources = ["null.b"]
  post-processor "manifest" { name = "list" }
}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFiles(t, dir, map[string]string{"t/t.pkr.hcl": text})
			for _, args := range [][]string{{"inspect", "t"}, {"inspect", "-var", "plain=other", "t"}, {"inspect", "nowhere"}} {
				if args[1] == "-var" && !strings.Contains(text, "plain") {
					continue
				}
				want, wantStatus := answer(t, dir, "", peer, args...)
				have, status := answer(t, dir, "", self(t), args...)
				if wantStatus != 0 {
					want, have = "", ""
				}
				if have != want || status != wantStatus {
					t.Errorf("%q: Packer (exit status %d):\n%s\nIngot (exit status %d):\n%s", args, wantStatus, want, status, have)
				}
			}
		})
	}
}

func TestFmtAsPacker(t *testing.T) {
	peer := packer(t)
	files := map[string]string{
		"good.pkr.hcl":     "a = 1\n",
		"align.pkr.hcl":    "a=1\nbbb   =   2 # two\n\nc=3\n",
		"vars.pkrvars.hcl": "region=\"eu\"\nlist=[1,2,\n3]\n",
		"nested.pkr.hcl":   "build{\nsources=[\"null.a\"]\nprovisioner \"shell\"{\ninline=[\n\"a\",\n  \"b\"]\n}\n}\n",
		"here.pkr.hcl":     "a=<<EOF\n  x   y\nEOF\nb=<<-EOF\n    z\n  EOF\n",
		"comment.pkr.hcl":  "# c\na=1//x\n/* y */b   = \"${ upper( \"x\" ) }\"\n",
		"object.pkr.hcl":   "a={b=1,\nccc=2,d:3}\ne=[for x in y:x if x!=\"\"]\n",
		"blanks.pkr.hcl":   "\n\n\na = 1\n\n\n\nb = 2   \n\n",
		"tabs.pkr.hcl":     "build {\n\tname = \"x\"\n}",
		"empty.pkr.hcl":    "",
		"other.hcl":        "a=1\n",
		"other.json":       "{}\n",
		"back.pkr.hcl~":    "a=1\n",
		"sub/deep.pkr.hcl": "a=1\nbbb=2\n",
	}
	for name, change := range map[string]map[string]string{
		"files": {},
		"right": {"align.pkr.hcl": "", "vars.pkrvars.hcl": "", "nested.pkr.hcl": "", "here.pkr.hcl": "", "comment.pkr.hcl": "", "object.pkr.hcl": "", "blanks.pkr.hcl": "", "tabs.pkr.hcl": ""},
	} {
		for _, args := range [][]string{
			{"fmt", "."}, {"fmt", "-check", "."}, {"fmt", "-write=false", "."}, {"fmt", "-check", "-write", "."}, {"fmt", "align.pkr.hcl"},
			{"fmt", "-check", "good.pkr.hcl"}, {"fmt", "-check", "align.pkr.hcl"}, {"fmt", "sub"}, {"fmt", "other.hcl"}, {"fmt", "other.json"}, {"fmt", "nowhere"}, {"fmt"},
			{"fmt", "-diff", "-write=false", "align.pkr.hcl"},
		} {
			theirs, ours := t.TempDir(), t.TempDir()
			for _, dir := range []string{theirs, ours} {
				writeFiles(t, dir, files)
				writeFiles(t, dir, change)
			}
			want, wantStatus := answer(t, theirs, "", peer, args...)
			have, status := answer(t, ours, "", self(t), args...)
			if wantStatus == 1 {
				want, have = "", ""
			}
			if have != want || status != wantStatus {
				t.Errorf("%s %q: Packer (exit status %d):\n%s\nIngot (exit status %d):\n%s", name, args, wantStatus, want, status, have)
			}
			for file := range files {
				want, err := os.ReadFile(filepath.Join(theirs, file))
				if err != nil {
					t.Fatal(err)
				}
				have, err := os.ReadFile(filepath.Join(ours, file))
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(have, want) {
					t.Errorf("%s %q: Packer makes of %s:\n%s\nIngot:\n%s", name, args, file, want, have)
				}
			}
		}
	}
}
