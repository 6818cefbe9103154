// Package userns lets a normal user bake in the sandbox: the program starts
// itself again in a user namespace in which that user is root, and from there
// on does the same as root would.
package userns

import "errors"

// ErrUnsupported says that this system has no user namespaces.
var ErrUnsupported = errors.New("user namespaces need Linux")
