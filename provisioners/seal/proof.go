package seal

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/ingotbuild/ingot/machine"
)

// Proof implements provisioners.Proven: for each option a check that nothing
// of what it stands for is there. It looks anew, and takes nothing from what
// the sealing said.
func (p *Provisioner) Proof() []byte {
	if p.done == nil {
		return nil
	}
	f := hclwrite.NewEmptyFile()
	body := f.Body()
	body.SetAttributeValue("title", cty.StringVal("sealed"))
	body.SetAttributeValue("sudo", cty.True)
	body.SetAttributeValue("timeout", cty.StringVal("5m"))
	for _, g := range p.o.groups(p.done.key) {
		b := body.AppendNewBlock("command", []string{p.o.look(g, p.done.began)}).Body()
		b.SetAttributeValue("title", cty.StringVal("no "+g.title+" left"))
		out := b.AppendNewBlock("its", []string{"stdout"}).Body()
		out.SetAttributeValue("eq", cty.StringVal(""))
		status := b.AppendNewBlock("its", []string{"exit_status"}).Body()
		status.SetAttributeValue("eq", cty.NumberIntVal(0))
	}
	return f.Bytes()
}

// look is a command that prints what is still there of a group, and fails
// where it cannot look.
func (o *Options) look(g group, began string) string {
	var b strings.Builder
	b.WriteString(": " + g.option + "\nset -e\n" + o.each() + there + "nl='\n'\n")
	older := ""
	if g.later {
		b.WriteString("r=$(mktemp)\ntrap 'rm -f \"$r\"' EXIT\ntouch -t " + machine.Quote(began) + " \"$r\"\n")
		older = ` ! -newer "$r" ! -path "$r"`
	}
	find := func(depth int, expression string) string {
		return fmt.Sprintf("if there \"$f\"; then each %s \"$f\" %s%s -print; fi", strconv.Itoa(depth), expression, older)
	}
	loop := func(words, do string) { b.WriteString("for f in" + words + "; do " + do + "; done\n") }
	inHomes, elsewhere := split(g.whole)
	if len(elsewhere) > 0 {
		loop(words(elsewhere), find(0, "! -type d"))
	}
	if len(inHomes) > 0 || g.key != "" {
		b.WriteString(findHomes)
	}
	if len(inHomes) > 0 {
		b.WriteString("for h do ")
		loop(homeWords(inHomes), find(0, "! -type d"))
		b.WriteString("done\n")
	}
	if g.key != "" {
		b.WriteString("for h do ")
		loop(homeWords(keyFiles), "if [ -f \"$f\" ]; then c=0; grep -lF "+machine.Quote(g.key)+" \"$f\" || c=$?; [ $c -le 1 ]; fi")
		b.WriteString("done\n")
	}
	if len(g.inside) > 0 {
		loop(words(g.inside), find(1, "! -type d"))
	}
	if g.option == "machine_id" {
		b.WriteString("[ \"$(cat /etc/machine-id 2>/dev/null)\" = uninitialized ] || ")
	}
	if len(g.empty) > 0 {
		loop(words(g.empty), find(0, "-type f -size +0c"))
	}
	if g.logs {
		loop(" /var/log", find(1, "! -type d "+rotated)+"; "+find(1, "-type f -size +0c"))
	}
	return b.String()
}
