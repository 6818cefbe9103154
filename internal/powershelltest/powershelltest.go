// Package powershelltest checks the syntax of PowerShell scripts where there is
// no PowerShell: by the grammar of tree-sitter-powershell, an independent one.
// What a script does, it does not prove.
package powershelltest

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const check = `
const {Parser, Language} = require('web-tree-sitter');
(async () => {
  await Parser.init();
  const parser = new Parser();
  parser.setLanguage(await Language.load(require.resolve('tree-sitter-powershell/tree-sitter-powershell.wasm')));
  const wrong = [];
  for (const [name, text] of Object.entries(JSON.parse(require('fs').readFileSync(0, 'utf8')))) {
    const walk = n => {
      if (n.isError || n.isMissing) wrong.push(name + ':' + (n.startPosition.row + 1) + ':' + (n.startPosition.column + 1) + ': ' + n.type + ' ' + JSON.stringify(n.text.slice(0, 60)));
      for (let i = 0; i < n.childCount; i++) walk(n.child(i));
    };
    const root = parser.parse(text).rootNode;
    if (root.hasError) walk(root);
  }
  process.stdout.write(wrong.join('\n'));
})().catch(e => { console.error(e); process.exit(1); });
`

// Parse fails the test for each script that does not parse. The name of one
// that must not parse begins with "bad".
func Parse(t *testing.T, scripts map[string]string) {
	t.Helper()
	missing := func(why string) {
		t.Helper()
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	root, err := exec.Command("npm", "root", "-g").Output()
	if err != nil {
		missing("needs node and npm")
	}
	modules := strings.TrimSpace(string(root))
	for _, m := range []string{"web-tree-sitter", "tree-sitter-powershell"} {
		if _, err := os.Stat(modules + "/" + m); err != nil {
			missing("needs " + m + ": npm install -g --ignore-scripts web-tree-sitter tree-sitter-powershell")
		}
	}
	in, err := json.Marshal(scripts)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "--liftoff-only", "--wasm-lazy-compilation", "-e", check) // optimizing the grammar takes minutes
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
	cmd.Stdin = strings.NewReader(string(in))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node: %v\n%s", err, stderr.String())
	}
	bad := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(line, ":")
		if bad[name] = true; !strings.HasPrefix(name, "bad") {
			t.Errorf("%s", strings.TrimSuffix(line, "\n"))
		}
	}
	for name := range scripts {
		if strings.HasPrefix(name, "bad") && !bad[name] {
			t.Errorf("%s was taken for PowerShell", name)
		}
	}
}
