//go:build !windows

package report

import "os"

func enableEscapes(*os.File) {}
