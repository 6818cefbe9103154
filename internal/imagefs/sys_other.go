//go:build !linux

package imagefs

import (
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"time"
)

func bootID() (string, error)                                 { return "", ErrUnsupported }
func overlayPrefix(string) (string, error)                    { return "", ErrUnsupported }
func flock(*os.File, bool) (bool, error)                      { return false, ErrUnsupported }
func fileStamp(fs.FileInfo) stamp                             { return stamp{} }
func dieWithUs(*exec.Cmd)                                     {}
func ownNamespaces(*exec.Cmd)                                 {}
func adoptDir(string, string) error                           { return ErrUnsupported }
func treeFingerprint(context.Context, string) (string, error) { return "", ErrUnsupported }

func measureTree(context.Context, string) (treeSize, error) { return treeSize{}, ErrUnsupported }

func writeTree(context.Context, string, io.Writer, packOptions) error { return ErrUnsupported }

func unpackTar(context.Context, io.Reader, string, string) (int, error) { return 0, ErrUnsupported }

// ClampTimes needs Linux: elsewhere it returns ErrUnsupported.
func ClampTimes(context.Context, string, time.Time) error { return ErrUnsupported }
