package imagefs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	sector    = 512
	rootStart = 1 * mib // of the root partition; the gap before it holds the boot loader
	diskLimit = 2 << 40 // what an MBR can describe
)

// exportDisk makes a disk with an MBR and one ext4 root partition, and returns
// a note on how to boot it.
func exportDisk(ctx context.Context, format, tree, file string, opt TreeOptions) (string, error) {
	if opt.Size > diskLimit {
		return "", fmt.Errorf("size %d GiB: a disk with an MBR has 2048 GiB at most", opt.Size>>30)
	}
	cmdline := strings.TrimSpace("root=UUID=" + opt.UUID + " ro console=ttyS0 " + opt.KernelOptions)
	raw := file
	if format == FormatQcow2 {
		raw = file + ".raw"
		f, err := os.OpenFile(raw, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return "", err
		}
		f.Close()
		defer os.Remove(raw)
	}
	var loader *bootLoader
	note := ""
	if opt.Bootable {
		var err error
		loader, err = makeBootLoader(ctx, tree, opt.UUID, cmdline)
		var cannot noBoot
		if errors.As(err, &cannot) {
			note = "The disk has no boot loader, because " + cannot.Error() + ". "
		} else if err != nil {
			return "", fmt.Errorf("make boot loader: %w", err)
		}
	}
	if err := exportExt4(ctx, tree, raw, rootStart, opt); err != nil {
		return "", err
	}
	if err := writeBootSectors(raw, opt.Seed, loader); err != nil {
		return "", fmt.Errorf("write partition table: %w", err)
	}
	if loader != nil {
		note = fmt.Sprintf("The disk boots by BIOS: %s. Kernel command line: %s", loader.kernel, cmdline)
	} else {
		note += fmt.Sprintf("Boot it with a kernel from outside: qemu-system-x86_64 -m 512 -nographic -kernel VMLINUZ -initrd INITRD -append %q -drive format=%s,file=%s",
			cmdline, format, "DISK")
	}
	if format == FormatQcow2 {
		args := []string{"convert", "-f", "raw", "-O", "qcow2"}
		if opt.Compression != "" && opt.Compression != "none" {
			args = append(args, "-c", "-o", "compression_type="+opt.Compression)
		}
		if _, err := toolQemuImg.run(ctx, nil, append(args, raw, file)...); err != nil {
			return "", err
		}
	}
	return note, nil
}

// unsafeForGrub would be more than text to GRUB's parser.
const unsafeForGrub = "'\"\\$;{}|&<>#`\x00\n\r\t"

// bootLoader is GRUB for BIOS: boot goes into the MBR, core behind it.
type bootLoader struct {
	boot, core []byte
	kernel     string // for people
}

// noBoot is why a disk cannot get a boot loader.
type noBoot string

func (n noBoot) Error() string { return string(n) }

const grubDir = "usr/lib/grub/i386-pc"

// grubModules is all that is needed to find the root partition and start Linux.
var grubModules = []string{"biosdisk", "part_msdos", "ext2", "search_fs_uuid", "serial", "terminal", "linux", "boot", "echo", "minicmd"}

// makeBootLoader builds a GRUB with its whole configuration inside, so that
// nothing has to be written into the tree.
func makeBootLoader(ctx context.Context, tree, uuid, cmdline string) (*bootLoader, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	kernel, initrd, err := findKernel(root)
	if err != nil {
		return nil, err
	}
	if _, err := toolGrubMkimage.find(); err != nil {
		return nil, noBoot(err.Error())
	}
	tmp, err := os.MkdirTemp("", "ingot-grub-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	modules := "/" + grubDir
	// The host's own fit its grub-mkimage; the tree's are the second choice.
	if _, err := os.Stat(modules); err != nil {
		modules = filepath.Join(tmp, "modules")
		if err := copyModules(root, modules); err != nil {
			return nil, err
		}
	}
	boot, err := os.ReadFile(filepath.Join(modules, "boot.img"))
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
search.fs_uuid %s root
linux /boot/%s %s
initrd /boot/%s
boot
`, uuid, kernel, cmdline, initrd)
	configFile, coreFile := filepath.Join(tmp, "grub.cfg"), filepath.Join(tmp, "core.img")
	if err := os.WriteFile(configFile, []byte(config), 0o600); err != nil {
		return nil, err
	}
	args := append([]string{"-O", "i386-pc", "-d", modules, "-p", "/boot/grub", "-c", configFile, "-o", coreFile}, grubModules...)
	if _, err := toolGrubMkimage.run(ctx, nil, args...); err != nil {
		return nil, err
	}
	core, err := os.ReadFile(coreFile)
	if err != nil {
		return nil, err
	}
	return &bootLoader{boot: boot, core: core, kernel: "GRUB starts /boot/" + kernel}, nil
}

// copyModules copies GRUB's modules out of the tree, whose links must not lead anywhere else.
func copyModules(root *os.Root, to string) error {
	missing := noBoot("GRUB's modules are missing: install grub-pc-bin here or in the image")
	files, err := fs.ReadDir(root.FS(), grubDir)
	if err != nil {
		return missing
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	for _, e := range files {
		if !e.Type().IsRegular() {
			continue
		}
		b, err := root.ReadFile(path.Join(grubDir, e.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), b, 0o600); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(to, "boot.img")); err != nil {
		return missing
	}
	return nil
}

var kernelName = regexp.MustCompile(`^vmlinuz-([A-Za-z0-9._+~-]+)$`)

// findKernel finds the newest kernel in /boot that has an initrd.
func findKernel(root *os.Root) (kernel, initrd string, err error) {
	entries, err := fs.ReadDir(root.FS(), "boot")
	if err != nil {
		return "", "", noBoot("the image has no /boot: install a kernel in it")
	}
	best := ""
	for _, e := range entries {
		m := kernelName.FindStringSubmatch(e.Name())
		if m == nil || (best != "" && compareVersions(m[1], best) < 0) {
			continue
		}
		for _, name := range []string{"initrd.img-" + m[1], "initramfs-" + m[1] + ".img", "initrd-" + m[1]} {
			if fi, err := root.Stat("boot/" + name); err == nil && fi.Mode().IsRegular() {
				best, kernel, initrd = m[1], e.Name(), name
				break
			}
		}
	}
	if best == "" {
		return "", "", noBoot("the image has no kernel with an initrd in /boot: install one in it (Debian: linux-image-cloud-amd64)")
	}
	return kernel, initrd, nil
}

// compareVersions compares runs of digits as numbers and the rest as text.
func compareVersions(a, b string) int {
	digits := func(s string) (string, string) {
		i := 0
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		return strings.TrimLeft(s[:i], "0"), s[i:]
	}
	for a != "" && b != "" {
		na, ra := digits(a)
		nb, rb := digits(b)
		if len(ra) < len(a) && len(rb) < len(b) {
			if len(na) != len(nb) {
				return len(na) - len(nb)
			}
			if c := strings.Compare(na, nb); c != 0 {
				return c
			}
			a, b = ra, rb
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

// writeBootSectors writes the partition table, and the boot loader if there is one.
func writeBootSectors(disk, seed string, loader *bootLoader) error {
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	mbr := make([]byte, sector)
	if loader != nil {
		if len(loader.boot) != sector || len(loader.core) <= sector || len(loader.core) > rootStart-sector {
			return fmt.Errorf("GRUB's images have sizes %d and %d: they do not fit before the first partition", len(loader.boot), len(loader.core))
		}
		copy(mbr[:440], loader.boot)      // the rest of the sector is the partition table's
		le.PutUint64(mbr[0x5c:], 1)       // where core is
		mbr[0x64] = 0xff                  // on the drive that the BIOS booted
		mbr[0x66], mbr[0x67] = 0x90, 0x90 // correct a BIOS that names a wrong drive
		// The first sector of core loads the rest, by the list at its end.
		core := slices.Clone(loader.core)
		rest := (len(core) - 1) / sector
		le.PutUint64(core[500:], 2)
		le.PutUint16(core[508:], uint16(rest))
		le.PutUint16(core[510:], 0x820)
		if _, err := f.WriteAt(core, sector); err != nil {
			return err
		}
	}
	id := sha256.Sum256([]byte("ingot disk " + seed))
	copy(mbr[440:444], id[:])
	p := mbr[446:462]
	p[0] = 0x80 // active
	// Cylinders, heads and sectors have meant nothing for long: "look at the LBA".
	copy(p[1:4], []byte{0xfe, 0xff, 0xff})
	p[4] = 0x83
	copy(p[5:8], []byte{0xfe, 0xff, 0xff})
	le.PutUint32(p[8:], rootStart/sector)
	le.PutUint32(p[12:], uint32((size-rootStart)/sector))
	mbr[510], mbr[511] = 0x55, 0xaa
	if _, err := f.WriteAt(mbr, 0); err != nil {
		return err
	}
	return f.Close()
}
