// Package machines runs the real machines behind an emulated cloud: sandbox
// machines whose disks can be imaged, attached elsewhere and booted again, with
// the machine's own sshd on a loopback address and the part of cloud-init that
// images and their builders depend on.
//
// A program that uses it starts itself anew for parts of its work: its main, or a
// test's TestMain, calls Reexec first, or hands Tasks to sandbox.Reexec.
//
// Everything hangs on this process. If it is killed, the machines, their mounts
// and devices, and the listeners go with it, and what is left are files below the
// Host's directory. A device of AttachHere that is still mounted then goes when it
// is unmounted.
package machines
