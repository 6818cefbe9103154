package ansible

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/play"
	"github.com/ingotbuild/ingot/machine/local"
)

// Versions remembers which ansible-playbook was asked for its version, because
// each question takes half a second. The zero value is ready for use.
type Versions struct {
	mu    sync.Mutex
	known map[string]*config.Problem // by path and directory; nil is good
}

// The oldest version whose options and variables are all there.
const oldestMajor, oldestMinor = 2, 9

var versionText = regexp.MustCompile(`^ansible\S* \[?(?:core |base )?(\d{1,4})\.(\d{1,4})`)

// check says what is wrong with the version of the program, if anything.
func (v *Versions) check(ctx context.Context, program, dir string) *config.Problem {
	v.mu.Lock()
	defer v.mu.Unlock()
	if problem, ok := v.known[program+"\x00"+dir]; ok {
		return problem
	}
	problem := ask(ctx, program, dir)
	if ctx.Err() == nil {
		if v.known == nil {
			v.known = map[string]*config.Problem{}
		}
		v.known[program+"\x00"+dir] = problem
	}
	return problem
}

func ask(ctx context.Context, program, dir string) *config.Problem {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(program, "--version")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &stdout, &stderr
	if err := local.Exec(ctx, cmd); err != nil {
		return &config.Problem{Option: "command", Summary: fmt.Sprintf("%s --version failed: %v.", program, err),
			Detail: strings.TrimSpace(play.Plain(stderr.String())) + "\nskip_version_check = true leaves it out."}
	}
	m := versionText.FindStringSubmatch(stdout.String())
	if m == nil {
		line, _, _ := strings.Cut(play.Plain(stdout.String()), "\n")
		return &config.Problem{Option: "command", Summary: fmt.Sprintf("%s --version does not say which Ansible it is, but %q.", program, line),
			Detail: "skip_version_check = true takes it as it is."}
	}
	major, _ := strconv.Atoi(m[1]) // four digits always fit
	minor, _ := strconv.Atoi(m[2])
	if major > oldestMajor || major == oldestMajor && minor >= oldestMinor {
		return nil
	}
	return &config.Problem{Option: "command", Summary: fmt.Sprintf("%s is Ansible %d.%d, but %d.%d is the oldest that will do.", program, major, minor, oldestMajor, oldestMinor),
		Detail: "Install a newer one, or name it by command. skip_version_check = true takes it as it is."}
}
