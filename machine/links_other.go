//go:build !unix

package machine

import "io/fs"

func linkID(fs.FileInfo) (fileID, bool) { return fileID{}, false }
