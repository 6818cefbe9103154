// Package drift finds out how machines differ from the image that they were
// made from: facts are gathered when an image is baked, recorded with its
// version, and gathered again from machines that run.
package drift

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ingotbuild/ingot/specs"
)

// Schema is the version of the form that facts are recorded in.
const Schema = 1

// Facts are what a machine is. A section that could not be found out, or was
// not asked for, stands in Unknown, and is empty.
type Facts struct {
	// Booted says that they were gathered after a clean boot of the image. Only
	// then services, ports and kernel parameters are known.
	Booted   bool
	Platform Platform
	Packages Packages
	Files    []Tree
	// Users and Groups are those of /etc/passwd and /etc/group, by name.
	Users  map[string]User
	Groups map[string]Group
	// Services are those that run or have failed, with their state.
	Services map[string]string
	// Ports are those that someone listens on, such as "tcp 80 (any address)".
	Ports []string
	// Kernel are kernel parameters by name.
	Kernel map[string]string
	// Unknown says by section why it is empty.
	Unknown map[string]string
	// Specs are those that held after a clean boot of the image.
	Specs []*specs.Recorded
}

// The sections of facts, by which Unknown is keyed. Each tree of files is one
// of its own, by its root.
const (
	SectionPackages = "packages"
	SectionFiles    = "files"
	SectionAccounts = "accounts"
	SectionServices = "services"
	SectionPorts    = "ports"
	SectionKernel   = "kernel"
)

// Platform is which system it is.
type Platform struct {
	Kernel string `json:"kernel"` // linux
	Arch   string `json:"arch"`   // as uname -m has it
	ID     string `json:"id"`     // debian
	Init   string `json:"init"`   // systemd, openrc, sysv, none
}

// Packages are the installed packages.
type Packages struct {
	// Manager is dpkg, rpm, apk or pacman.
	Manager string `json:"manager"`
	// Installed has the version by name; by name:arch where one name is
	// installed for several. Several versions have a space between.
	Installed map[string]string `json:"installed"`
}

// Tree is a directory with what is below it.
type Tree struct {
	Root string `json:"root"`
	// Depth is how many levels below Root were looked at; 0: all.
	Depth int `json:"depth,omitempty"`
	// Absent: there is no such directory.
	Absent bool `json:"absent,omitempty"`
	// Last is the last path in order that is in Entries when there were too
	// many; what comes after it is not known.
	Last string `json:"last,omitempty"`
	// Odd counts names that were left out, since they have a newline in them.
	Odd int `json:"odd,omitempty"`
	// Entries are all by path, Root included.
	Entries map[string]Entry `json:"entries,omitempty"`
}

// Entry is a file, a directory or something else.
type Entry struct {
	// Type is find's letter: f, d, l, p, s, b or c.
	Type string `json:"t"`
	// Mode is in octal digits, such as 644.
	Mode string `json:"m"`
	UID  int64  `json:"u,omitempty"`
	GID  int64  `json:"g,omitempty"`
	// Size and Sum are those of files. Sum is the SHA-256; empty where the
	// content was not looked at.
	Size int64  `json:"n,omitempty"`
	Sum  string `json:"h,omitempty"`
	// Target is a link's.
	Target string `json:"l,omitempty"`
}

// User is an account.
type User struct {
	UID   string `json:"uid"`
	GID   string `json:"gid"`
	Home  string `json:"home"`
	Shell string `json:"shell"`
	// Password is "locked", "set", "empty", or "unknown"; the hash stays where it is.
	Password string `json:"password"`
}

// Group is a group of accounts.
type Group struct {
	GID     string `json:"gid"`
	Members string `json:"members,omitempty"` // sorted, with commas
}

// Summary says in a few words how much is known.
func (f *Facts) Summary() string {
	files := 0
	for _, t := range f.Files {
		files += len(t.Entries)
	}
	s := fmt.Sprintf("%d packages, %d files, %d users", len(f.Packages.Installed), files, len(f.Users))
	if f.Booted {
		s += fmt.Sprintf(", %d services, %d ports, %d kernel parameters", len(f.Services), len(f.Ports), len(f.Kernel))
	}
	return s
}

// meta is the part of facts that is not shared between versions.
type meta struct {
	Schema   int               `json:"schema"`
	Booted   bool              `json:"booted,omitempty"`
	Platform Platform          `json:"platform"`
	Unknown  map[string]string `json:"unknown,omitempty"`
}

type accounts struct {
	Users  map[string]User  `json:"users"`
	Groups map[string]Group `json:"groups"`
}

type booted struct {
	Services map[string]string `json:"services,omitempty"`
	Ports    []string          `json:"ports,omitempty"`
	Kernel   map[string]string `json:"kernel,omitempty"`
}

// Encode gives the facts in parts, so that what two versions have in common
// need not be kept twice.
func (f *Facts) Encode() (map[string][]byte, error) {
	parts := map[string]any{
		"meta":     meta{Schema, f.Booted, f.Platform, f.Unknown},
		"packages": f.Packages,
		"accounts": accounts{f.Users, f.Groups},
		"booted":   booted{f.Services, f.Ports, f.Kernel},
		"specs":    f.Specs,
	}
	for _, t := range f.Files {
		parts["files "+t.Root] = t
	}
	out := map[string][]byte{}
	for name, v := range parts {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("write the facts' part %q: %w", name, err)
		}
		out[name] = b
	}
	return out, nil
}

// Decode reads what Encode wrote.
func Decode(parts map[string][]byte) (*Facts, error) {
	var m meta
	var a accounts
	var b booted
	f := &Facts{}
	if err := json.Unmarshal(parts["meta"], &m); err != nil {
		return nil, fmt.Errorf("read the recorded facts: %w", err)
	}
	if m.Schema != Schema {
		return nil, fmt.Errorf("the facts were recorded in form %d, and this Ingot knows form %d: use the Ingot that has recorded them, or bake again", m.Schema, Schema)
	}
	for name, v := range map[string]any{"packages": &f.Packages, "accounts": &a, "booted": &b, "specs": &f.Specs} {
		if err := decode(parts[name], v); err != nil {
			return nil, fmt.Errorf("read the recorded facts' part %q: %w", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		root, ok := strings.CutPrefix(name, "files ")
		if !ok {
			continue
		}
		t := Tree{}
		if err := decode(parts[name], &t); err != nil || t.Root != root {
			return nil, fmt.Errorf("read the recorded facts' part %q: it does not hold that tree (%v)", name, err)
		}
		f.Files = append(f.Files, t)
	}
	f.Booted, f.Platform, f.Unknown = m.Booted, m.Platform, m.Unknown
	f.Users, f.Groups = a.Users, a.Groups
	f.Services, f.Ports, f.Kernel = b.Services, b.Ports, b.Kernel
	return f, nil
}

func decode(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // to drop what is not known would be to compare less
	return d.Decode(into)
}
