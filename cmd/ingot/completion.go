package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// completeName is the hidden verb that the shells ask for completions.
const completeName = "complete-words"

// The shells complete with what `ingot complete-words` prints for the words up
// to the cursor, and with files where it prints nothing.
var completions = map[string]string{
	"bash": `_ingot() {
  local IFS=$'\n'
  COMPREPLY=($("${COMP_WORDS[0]}" complete-words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _ingot ingot
`,
	"zsh": `#compdef ingot
_ingot() {
  local -a found
  found=("${(@f)$("${words[1]}" complete-words -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "${found[1]}" ]]; then
    compadd -- "${found[@]}"
  else
    _files
  fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
compdef _ingot ingot
`,
	"fish": `complete -c ingot -a '(ingot complete-words -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
`,
}

func completionVerb() verb {
	shells := []string{"bash", "fish", "zsh"}
	return verb{
		name: "completion", args: strings.Join(shells, " | "), short: "Print a script that completes commands and options in a shell",
		long: "  bash: source <(ingot completion bash)\n" +
			"  zsh:  source <(ingot completion zsh)\n" +
			"  fish: ingot completion fish | source\n" +
			"`ingot -autocomplete-install` sees to it for good, `ingot -autocomplete-uninstall` undoes that.",
		words: func() []string { return shells },
		run: func(_ context.Context, c *cli, args []string) int {
			rest, err := c.parse(c.flags(), args, 1, 1)
			if err != nil {
				return code(err)
			}
			script, ok := completions[rest[0]]
			if !ok {
				return c.fail(fmt.Errorf("there is no completion for %q, only for %s", rest[0], strings.Join(shells, ", ")))
			}
			fmt.Fprint(c.out, script)
			return exitOK
		},
	}
}

func completeVerb() verb {
	return verb{
		name: completeName, hidden: true,
		run: func(ctx context.Context, c *cli, args []string) int {
			if len(args) > 0 && args[0] == "--" {
				args = args[1:]
			}
			for _, word := range complete(ctx, args) {
				fmt.Fprintln(c.out, word)
			}
			return exitOK
		},
	}
}

// complete returns what the last of the words can become. None: files.
func complete(ctx context.Context, words []string) []string {
	words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "=" }) // bash takes -x=y apart
	if len(words) == 0 {
		return nil
	}
	return completeAmong(ctx, verbs(), words)
}

// completeAmong is complete where the first word is one of the verbs.
func completeAmong(ctx context.Context, all []verb, words []string) []string {
	last := words[len(words)-1]
	var v verb
	var names []string
	for _, one := range all {
		if one.name == words[0] {
			v = one
		}
		if !one.hidden {
			names = append(names, one.name)
		}
	}
	if len(words) == 1 {
		return begin(names, "", last)
	}
	if words[0] == "help" {
		return completeAmong(ctx, all, words[1:])
	}
	if v.verbs != nil {
		return completeAmong(ctx, v.verbs(), words[1:])
	}
	if v.run == nil {
		return nil
	}
	flags := flagsOf(ctx, v)
	if prev := words[len(words)-2]; len(flags[prev]) > 0 {
		return begin(flags[prev], "", last)
	}
	if flag, value, ok := strings.Cut(last, "="); ok {
		return begin(flags["-"+strings.TrimLeft(flag, "-")], flag+"=", value)
	}
	if strings.HasPrefix(last, "-") {
		return begin(sortedKeys(flags), "", "-"+strings.TrimLeft(last, "-"))
	}
	if len(words) == 2 && v.words != nil {
		return begin(v.words(), "", last)
	}
	return nil
}

func begin(words []string, before, start string) []string {
	var out []string
	for _, w := range words {
		if strings.HasPrefix(w, start) {
			out = append(out, before+w)
		}
	}
	return out
}

func sortedKeys(flags map[string][]string) []string {
	var names []string
	for name := range flags {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// flagsOf returns the flags of a verb, with the values they can have where
// these are few. The verb hands its flags to its help.
func flagsOf(ctx context.Context, v verb) map[string][]string {
	flags := map[string][]string{}
	c := &cli{out: io.Discard, err: io.Discard, v: v, onHelp: func(fs *flag.FlagSet) {
		fs.VisitAll(func(f *flag.Flag) {
			var values []string
			if arg, _ := flag.UnquoteUsage(f); strings.Contains(arg, "|") {
				values = strings.Split(arg, "|")
			}
			flags["-"+f.Name] = values
		})
	}}
	v.run(ctx, c, []string{"-help"})
	return flags
}

// autocomplete adds completion to the start files of the shells that have one,
// or takes it out again.
func (c *cli) autocomplete(install bool) int {
	home, err := os.UserHomeDir()
	if err != nil {
		return c.fail(fmt.Errorf("find the home directory: %w", err))
	}
	self, err := os.Executable()
	if err != nil {
		return c.fail(fmt.Errorf("find the program itself: %w", err))
	}
	quoted := "'" + strings.ReplaceAll(self, "'", `'\''`) + "'"
	done := 0
	for _, s := range []struct{ file, line string }{
		{".bashrc", "source <(" + quoted + " completion bash)"},
		{".zshrc", "source <(" + quoted + " completion zsh)"},
		{".config/fish/config.fish", quoted + " completion fish | source"},
	} {
		path := filepath.Join(home, filepath.FromSlash(s.file))
		changed, err := markedLine(path, s.line, install)
		if errors.Is(err, fs.ErrNotExist) {
			continue // this shell is not used here
		}
		if err != nil {
			return c.fail(err)
		}
		done++
		state := map[bool]string{true: "changed", false: "as it should be already"}[changed]
		fmt.Fprintf(c.out, "%s: %s\n", path, state)
	}
	if done == 0 {
		return c.fail(fmt.Errorf("there is no .bashrc, .zshrc or .config/fish/config.fish in %s; `ingot completion -help` says what to add elsewhere", home))
	}
	return exitOK
}

// mark ends the line that is Ingot's in the start file of a shell.
const mark = " # completion of ingot"

// markedLine sees to it that the file has, or has not, the line with the mark.
func markedLine(path, line string, want bool) (changed bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	old, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	var text strings.Builder
	for l := range strings.Lines(string(old)) {
		if !strings.HasSuffix(strings.TrimRight(l, "\r\n"), mark) {
			text.WriteString(l)
		}
	}
	if want {
		if s := text.String(); s != "" && !strings.HasSuffix(s, "\n") {
			text.WriteString("\n")
		}
		text.WriteString(line + mark + "\n")
	}
	if text.String() == string(old) {
		return false, nil
	}
	return true, replaceFile(path, info.Mode().Perm(), []byte(text.String()))
}
