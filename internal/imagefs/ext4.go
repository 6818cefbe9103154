package imagefs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
	"time"
)

// treeSize is what a tree needs: 4 KiB blocks, and inodes.
type treeSize struct{ blocks, inodes int64 }

const (
	mib       = 1 << 20
	ext4Block = 4096
	inodeSize = 256
)

// ext4Features are given in full, so that the distribution's mke2fs.conf does
// not matter, and any GRUB or kernel of the last ten years can read the result.
const ext4Features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// journalSize is about what mke2fs would choose.
func journalSize(size int64) int64 {
	switch {
	case size < 128*mib:
		return 4 * mib
	case size < 1024*mib:
		return 16 * mib
	case size < 4096*mib:
		return 32 * mib
	}
	return 64 * mib
}

// backups is how many groups hold the superblock and the group descriptors:
// the first two, and the powers of 3, 5 and 7.
func backups(groups int64) int64 {
	n := min(groups, 2)
	for _, base := range []int64{3, 5, 7} {
		for p := base; p < groups; p *= base {
			n++
		}
	}
	return n
}

// ext4Layout checks or chooses the size of a file system for a tree, and says
// how many inodes it gets.
func ext4Layout(t treeSize, size int64) (fsSize, inodes int64, err error) {
	inodes = t.inodes + t.inodes/4 + 1024
	// need is what size must hold: data, inodes, the journal, the bitmaps of
	// every 128 MiB group, and the descriptors, with room to grow a
	// thousandfold, in those groups that have a copy of them.
	need := func(size int64) int64 {
		inodes := max(inodes, size/(16<<10))
		groups := size/(128*mib) + 1
		descriptors := groups/64 + 2 + min(1024, 16*groups)
		blocks := t.blocks + 16 + groups*4 + descriptors*backups(groups)
		return blocks*ext4Block + inodes*inodeSize + journalSize(size)
	}
	if size == 0 {
		for {
			n := need(size)
			n += n/10 + 32*mib
			if n = (n + mib - 1) / mib * mib; n <= size {
				break
			}
			size = n
		}
	}
	size = size / ext4Block * ext4Block
	if n := need(size); size < n {
		return 0, 0, fmt.Errorf("the tree needs %d MiB at the least and the file system would have %d MiB: give a larger size, or none to have it computed",
			(n+mib-1)/mib, size/mib)
	}
	return size, max(inodes, size/(16<<10)), nil
}

// exportExt4 makes an ext4 file system of the tree in file, at offset.
func exportExt4(ctx context.Context, tree, file string, offset int64, opt TreeOptions) error {
	if len(opt.Label) > 16 || strings.ContainsAny(opt.Label, "\x00\n") {
		return fmt.Errorf("label %q: want at most 16 bytes", opt.Label)
	}
	t, err := measureTree(ctx, tree)
	if err != nil {
		return err
	}
	size := opt.Size
	if size != 0 {
		size = max(size-offset, 1)
	}
	size, inodes, err := ext4Layout(t, size)
	if err != nil {
		return err
	}
	if err := os.Truncate(file, offset+size); err != nil {
		return err
	}
	extended := "hash_seed=" + opt.UUID + ",lazy_itable_init=1,lazy_journal_init=1"
	if offset > 0 {
		extended += fmt.Sprintf(",offset=%d", offset)
	}
	out, err := toolMke2fs.run(ctx, []string{
		"MKE2FS_CONFIG=/dev/null", "MKE2FS_DEVICE_SECTSIZE=512",
		fmt.Sprintf("E2FSPROGS_FAKE_TIME=%d", fsTime(opt)),
	}, "-q", "-F", "-t", "ext4", "-O", ext4Features, "-b", fmt.Sprint(ext4Block), "-I", fmt.Sprint(inodeSize),
		"-N", fmt.Sprint(inodes), "-J", fmt.Sprintf("size=%d", journalSize(size)/mib), "-m", "1",
		"-U", opt.UUID, "-L", opt.Label, "-E", extended, "-d", tree, file, fmt.Sprintf("%dk", size>>10))
	if err != nil {
		if strings.Contains(out, "Could not allocate") {
			return fmt.Errorf("the tree does not fit into %d MiB: give a larger size, or none to have it computed: %w", size/mib, err)
		}
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := clampExt4(ctx, f, offset, opt.Epoch); err != nil {
		return fmt.Errorf("clamp times in the new file system: %w", err)
	}
	return f.Close()
}

// fsTime is a file system's own time of creation. E2fsprogs takes 0 for "ask the clock".
func fsTime(opt TreeOptions) int64 {
	if opt.Epoch.IsZero() {
		return 1
	}
	return max(1, opt.Epoch.Unix())
}

// clampExt4 sets the times of all inodes of a fresh file system: mke2fs copies
// access and change times, which no tree can hold still. Modification times
// are clamped to the epoch; the others become equal to them.
func clampExt4(ctx context.Context, f *os.File, base int64, epoch time.Time) error {
	le := binary.LittleEndian
	sb := make([]byte, 1024)
	if _, err := f.ReadAt(sb, base+1024); err != nil {
		return err
	}
	var (
		blockSize = int64(1024) << le.Uint32(sb[0x18:])
		perGroup  = int64(le.Uint32(sb[0x28:]))
		inodes    = int64(le.Uint32(sb[0x00:]))
		isize     = int64(le.Uint16(sb[0x58:]))
		descSize  = int64(le.Uint16(sb[0xfe:]))
		seed      = crc32c(^uint32(0), sb[0x68:0x78]) // of the UUID
	)
	if le.Uint16(sb[0x38:]) != 0xef53 || blockSize != ext4Block || isize != inodeSize || descSize != 64 || perGroup == 0 {
		return errors.New("mke2fs made a file system of another kind than it was asked for")
	}
	groups := (inodes + perGroup - 1) / perGroup
	desc := make([]byte, groups*descSize)
	if _, err := f.ReadAt(desc, base+blockSize); err != nil {
		return err
	}
	for g := range groups {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d := desc[g*descSize:]
		if le.Uint16(d[0x12:])&1 != 0 { // no inode of the group is in use
			continue
		}
		table := base + blockSize*(int64(le.Uint32(d[0x08:]))|int64(le.Uint32(d[0x28:]))<<32)
		used := perGroup - (int64(le.Uint16(d[0x1c:])) | int64(le.Uint16(d[0x32:]))<<16)
		buf := make([]byte, used*isize)
		if _, err := f.ReadAt(buf, table); err != nil {
			return err
		}
		for i := range used {
			in := buf[i*isize : (i+1)*isize]
			if le.Uint32(in[0x0c:]) == 0 && le.Uint16(in[0x00:]) == 0 {
				continue // not in use
			}
			// Older mke2fs cut times to 32 bits. They are read as 1970 to 2106,
			// since no file is older than that but some pretend to be younger.
			mtime := int64(le.Uint32(in[0x10:]))
			mtime = clamp(time.Unix(mtime, 0), epoch).Unix()
			// Seconds have 34 bits: the extra field's low two count rounds of 2³².
			extra := uint32((mtime-int64(int32(mtime)))>>32) & 3
			for _, at := range []int{0x08, 0x0c, 0x10} { // access, change, modification
				le.PutUint32(in[at:], uint32(mtime))
			}
			if le.Uint16(in[0x80:]) >= 24 { // reserved inodes have no extra fields
				le.PutUint32(in[0x90:], uint32(mtime))             // creation
				for _, at := range []int{0x84, 0x88, 0x8c, 0x94} { // nanoseconds and epochs of all four
					le.PutUint32(in[at:], extra)
				}
			}
			putInodeChecksum(in, uint32(g*perGroup+i+1), seed)
		}
		if _, err := f.WriteAt(buf, table); err != nil {
			return err
		}
	}
	return nil
}

func putInodeChecksum(in []byte, number, seed uint32) {
	le := binary.LittleEndian
	high := le.Uint16(in[0x80:]) >= 4 // the upper half has room only then
	le.PutUint16(in[0x7c:], 0)
	if high {
		le.PutUint16(in[0x82:], 0)
	}
	sum := crc32c(seed, le.AppendUint32(nil, number))
	sum = crc32c(sum, in[0x64:0x68]) // generation
	sum = crc32c(sum, in)
	le.PutUint16(in[0x7c:], uint16(sum))
	if high {
		le.PutUint16(in[0x82:], uint16(sum>>16))
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c is the kernel's: without the inversions that Go's makes.
func crc32c(sum uint32, p []byte) uint32 { return ^crc32.Update(^sum, castagnoli, p) }
