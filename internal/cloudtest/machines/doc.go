// Package machines runs the real machines behind an emulated cloud: sandbox
// machines whose disks can be imaged, attached elsewhere and booted again, with
// the machine's own sshd on a loopback address and the part of cloud-init that
// images and their builders depend on.
//
// A program that uses it starts itself anew for parts of its work: its main, or a
// test's TestMain, calls Reexec first, or hands Tasks to sandbox.Reexec.
//
// What is not as in a cloud: no systemd runs in a machine, so services that are
// enabled in its image are not started, sshd apart. `shutdown`, `poweroff`, `halt`,
// `reboot`, `systemctl poweroff` and `cloud-init status` are given to it and are no
// part of its image; `/usr/bin/systemctl poweroff`, by its full path, does not
// work. Further disks are block devices: mkfs, mke2fs -d, dd and debugfs work on
// them; mount and partprobe do not, for a machine's root may do neither. Host keys
// are ECDSA and Ed25519 unless user data asks for RSA. No metadata service answers.
//
// Everything hangs on this process. If it is killed, the machines, their mounts
// and devices, and the listeners go with it, and what is left are files below the
// Host's directory. A device of AttachHere that is still mounted then goes when it
// is unmounted.
package machines
