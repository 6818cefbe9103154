// Package state says where Ingot keeps what must outlive a run: the registry,
// the ledger, local images.
package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Path returns what Dir does, without making or trying the directory.
func Path() (string, error) { return place() }

// Dir returns the absolute path of the directory that holds Ingot's things:
// $INGOT_HOME, else $XDG_DATA_HOME/ingot, else the system's usual place
// (~/.local/share/ingot, ~/Library/Application Support/ingot on macOS,
// %LocalAppData%\ingot on Windows). It is made, for the user alone, when it is
// missing. A directory that cannot be written, or that others can write, is an
// error.
func Dir() (string, error) {
	dir, err := place()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make Ingot's directory: %w; set INGOT_HOME to a directory that you can write", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("look at Ingot's directory: %w", err)
	}
	// Who can write here can replace the ledger. Windows has no such bits.
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("directory %s, which is Ingot's, can be written by others (mode %04o): chmod it to 0700, or set INGOT_HOME to one of its own",
			dir, info.Mode().Perm())
	}
	probe, err := os.CreateTemp(dir, ".probe-*")
	if err != nil {
		return "", fmt.Errorf("write in Ingot's directory: %w; set INGOT_HOME to a directory that you can write", err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return "", fmt.Errorf("write in Ingot's directory: %w", err)
	}
	return dir, nil
}

func place() (string, error) {
	if dir := os.Getenv("INGOT_HOME"); dir != "" {
		// With a relative path every working directory would get a ledger of
		// its own, and no sweep would find them all.
		if !filepath.IsAbs(dir) {
			return "", fmt.Errorf("INGOT_HOME is %q: give an absolute path", dir)
		}
		return filepath.Clean(dir), nil
	}
	// The XDG specification says to ignore a relative path.
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "ingot"), nil
	}
	if runtime.GOOS == "windows" {
		dir := os.Getenv("LocalAppData")
		if !filepath.IsAbs(dir) {
			return "", fmt.Errorf("LocalAppData is %q, so there is no place for Ingot's things: set INGOT_HOME to an absolute path", dir)
		}
		return filepath.Join(dir, "ingot"), nil
	}
	home, err := os.UserHomeDir()
	if err == nil && !filepath.IsAbs(home) {
		err = &fs.PathError{Op: "home directory", Path: home, Err: errors.New("not an absolute path")}
	}
	if err != nil {
		return "", fmt.Errorf("find a place for Ingot's things: %w; set HOME, or INGOT_HOME to an absolute path", err)
	}
	if runtime.GOOS == "darwin" {
		return filepath.Join(home, "Library", "Application Support", "ingot"), nil
	}
	return filepath.Join(home, ".local", "share", "ingot"), nil
}
