package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/term"

	"github.com/ingotbuild/ingot/internal/event"
)

// openLog starts the log that PACKER_LOG and PACKER_LOG_PATH ask for: what
// happens, as JSON lines, on standard error or in a file. Arguments are left out
// of it, since they can hold secrets.
func (c *cli) openLog(args []string) (end func(code int), err error) {
	path, want := os.Getenv("PACKER_LOG_PATH"), os.Getenv("PACKER_LOG")
	if path == "" && (want == "" || want == "0") || len(args) > 0 && args[0] == completeName {
		return func(int) {}, nil
	}
	file := os.Stderr
	if path != "" {
		// With O_APPEND a child that is started with the same environment adds its lines.
		file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open the log that PACKER_LOG_PATH asks for: %w", err)
		}
	}
	c.log, c.logOnTerminal = file, term.IsTerminal(int(file.Fd()))
	say := func(text string) {
		line, _ := json.Marshal(event.Event{Time: time.Now(), Kind: event.Message, Text: text}) // such an event always can
		fmt.Fprintf(file, "%s\n", line)
	}
	say(fmt.Sprintf("ingot %s, %s, %s/%s", versionText(), runtime.Version(), runtime.GOOS, runtime.GOARCH))
	return func(code int) {
		say(fmt.Sprintf("exit status %d", code))
		if path != "" {
			file.Close()
		}
	}, nil
}
