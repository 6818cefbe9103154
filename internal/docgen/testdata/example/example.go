// Package example is what the tests of package docgen describe.
package example

import "time"

// Common are options that several structs embed.
type Common struct {
	// Region is where it happens.
	Region string `cfg:"region"`
}

// Options are the options of an example. Only root may use them.
type Options struct {
	// Path of the file, not {{ .Path }}.
	Path string `cfg:"path,required"`
	// User and Group own it, as Path says.
	User  string `cfg:"user"`
	Group string `cfg:"group"`
	Common
	// S3Key is a name with a digit.
	S3Key string `cfg:"s3_key"`
	// Wait is how long.
	Wait time.Duration `cfg:"wait"`
	// Disk blocks are disks.
	Disk []Disk `cfg:"disk,block"`
}

// Disk is one.
type Disk struct {
	// Size is a number of bytes. Default: none.
	Size int `cfg:"size"`
}

// Silent has an option that no comment speaks of.
type Silent struct {
	// Name is explained.
	Name string `cfg:"name"`
	Rest string `cfg:"rest"`
}

// Bare has no comment at all.
type Bare struct {
	Name string `cfg:"name"`
}
