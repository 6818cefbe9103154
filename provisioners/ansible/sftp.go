package ansible

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/machine"
)

// serveSFTP serves the machine's files by its Put and Get.
func (p *proxy) serveSFTP(ctx context.Context, ch ssh.Channel) int {
	f := &files{ctx: ctx, m: p.m, dir: p.dir, open: map[string]*upload{}}
	home, err := f.run("pwd")
	if err != nil {
		fmt.Fprintf(ch.Stderr(), "the machine's home directory: %v\n", err)
		return lost
	}
	// The server reads until the client or the bake ends it.
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	defer stop()
	server := sftp.NewRequestServer(ch, sftp.Handlers{FileGet: f, FilePut: f, FileCmd: f, FileList: f},
		sftp.WithStartDirectory(strings.TrimRight(home, "\n")))
	// Its Close would close the channel, on which the status is still to be sent.
	if err = server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return 1
	}
	return 0
}

// files are the machine's files, as SFTP wants to see them.
type files struct {
	ctx context.Context
	m   machine.Machine
	dir string

	mu   sync.Mutex
	open map[string]*upload // files that are being written, by path
}

// run runs a command on the machine. What it cannot do is told in its own words.
func (f *files) run(line string) (string, error) {
	var stdout, stderr bytes.Buffer
	err := f.m.Run(f.ctx, machine.Command{Line: line, Stdout: &stdout, Stderr: &stderr})
	if err == nil {
		return stdout.String(), nil
	}
	text := strings.TrimSpace(stderr.String())
	switch {
	case strings.Contains(text, "No such file"):
		return "", os.ErrNotExist
	case strings.Contains(text, "Permission denied"):
		return "", os.ErrPermission
	case text != "":
		return "", fmt.Errorf("%s", text)
	}
	return "", err
}

// get gets a file into a temporary one, which is open and has no name.
func (f *files) get(name string) (*os.File, error) {
	// A directory would come as a whole.
	if _, err := f.run("[ ! -d " + operand(name) + " ] && [ -r " + operand(name) + " ] || { ls -d " + operand(name) + " >/dev/null && echo it is a directory, or cannot be read >&2; false; }"); err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp(f.dir, "get-")
	if err != nil {
		return nil, err
	}
	tmp.Close()
	defer os.Remove(tmp.Name())
	if err := f.m.Get(f.ctx, name, machine.FileSink(tmp.Name())); err != nil {
		return nil, err
	}
	return os.Open(tmp.Name())
}

// put puts a file of this host on the machine.
func (f *files) put(name, local string, mode fs.FileMode) error {
	if err := os.Chmod(local, mode|0o400); err != nil { // for it must be read here
		return err
	}
	if err := f.m.Put(f.ctx, path.Dir(name), machine.FileTree(local, path.Base(name))); err != nil {
		return err
	}
	if mode|0o400 == mode {
		return nil
	}
	_, err := f.run(fmt.Sprintf("chmod %o %s", mode, operand(name)))
	return err
}

// operand is a path that no program takes for an option.
func operand(name string) string {
	if !path.IsAbs(name) {
		name = "./" + name
	}
	return machine.Quote(name)
}

// Fileread implements sftp.FileReader.
func (f *files) Fileread(r *sftp.Request) (io.ReaderAt, error) { return f.get(r.Filepath) }

// Filewrite implements sftp.FileWriter.
func (f *files) Filewrite(r *sftp.Request) (io.WriterAt, error) {
	if r.Pflags().Append {
		return nil, errors.New("files cannot be appended to through Ingot's proxy")
	}
	mode := fs.FileMode(0o644)
	if r.AttrFlags().Permissions {
		mode = r.Attributes().FileMode().Perm()
	}
	var tmp *os.File
	var err error
	if flags := r.Pflags(); !flags.Trunc && !flags.Excl {
		// What is not written over stays.
		if old, gerr := f.get(r.Filepath); gerr == nil {
			defer old.Close()
			if tmp, err = os.CreateTemp(f.dir, "put-"); err == nil {
				_, err = io.Copy(tmp, old)
			}
		} else if !errors.Is(gerr, os.ErrNotExist) {
			return nil, gerr
		}
	} else if flags.Excl {
		if _, err := f.run("[ ! -e " + operand(r.Filepath) + " ]"); err != nil {
			return nil, os.ErrExist
		}
	}
	if tmp == nil && err == nil {
		tmp, err = os.CreateTemp(f.dir, "put-")
	}
	if err != nil {
		if tmp != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
		return nil, err
	}
	u := &upload{File: tmp, files: f, name: r.Filepath, mode: mode}
	f.mu.Lock()
	f.open[u.name] = u
	f.mu.Unlock()
	return u, nil
}

// upload is a file that is put on the machine when it is whole.
type upload struct {
	*os.File
	files *files
	name  string
	mode  fs.FileMode
	after []string // commands for the file once it is in its place
	err   error
}

// TransferError is told that the connection broke while the file was open.
func (u *upload) TransferError(err error) { u.err = err }

// Close puts the file in its place.
func (u *upload) Close() error {
	defer os.Remove(u.File.Name())
	u.files.mu.Lock()
	if u.files.open[u.name] == u {
		delete(u.files.open, u.name)
	}
	after := u.after
	u.files.mu.Unlock()
	if err := u.File.Close(); err != nil {
		return err
	}
	if u.err != nil {
		return u.err
	}
	if err := u.files.put(u.name, u.File.Name(), u.mode); err != nil || after == nil {
		return err
	}
	_, err := u.files.run(strings.Join(after, " && "))
	return err
}

// Filecmd implements sftp.FileCmder.
func (f *files) Filecmd(r *sftp.Request) error {
	name, target := operand(r.Filepath), operand(r.Target)
	line := ""
	switch r.Method {
	case "Setstat":
		return f.setstat(r, name)
	case "Rename": // which must not replace
		line = "[ ! -e " + target + " ] || { echo the target exists >&2; false; } && mv " + name + " " + target
	case "PosixRename":
		line = "mv -f " + name + " " + target
	case "Mkdir":
		line = "mkdir " + name
	case "Rmdir":
		line = "rmdir " + name
	case "Remove":
		line = "[ ! -d " + name + " ] || [ -L " + name + " ] || { echo it is a directory >&2; false; } && rm " + name
	case "Symlink": // Filepath is the text of the link
		line = "ln -s " + machine.Quote(r.Filepath) + " " + target
	case "Link":
		line = "ln " + name + " " + target
	default:
		return sftp.ErrSSHFxOpUnsupported
	}
	_, err := f.run(line)
	return err
}

func (f *files) setstat(r *sftp.Request, name string) error {
	flags, a := r.AttrFlags(), r.Attributes()
	var lines []string
	if flags.Size {
		lines = append(lines, fmt.Sprintf("truncate -s %d %s", a.Size, name))
	}
	if flags.UidGid {
		lines = append(lines, fmt.Sprintf("chown %d:%d %s", a.UID, a.GID, name))
	}
	if flags.Permissions {
		lines = append(lines, fmt.Sprintf("chmod %o %s", a.Mode&0o7777, name))
	}
	if flags.Acmodtime {
		lines = append(lines, fmt.Sprintf("touch -d @%d %s", a.Mtime, name))
	}
	if lines == nil {
		return nil
	}
	f.mu.Lock()
	u := f.open[r.Filepath]
	if u != nil {
		u.after = append(u.after, lines...)
	}
	f.mu.Unlock()
	if u != nil {
		return nil
	}
	_, err := f.run(strings.Join(lines, " && "))
	return err
}

// Filelist implements sftp.FileLister. The listing is made by stat, which both
// GNU and busybox have.
func (f *files) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	const format = "stat -c '%f %s %Y %n' "
	name := operand(r.Filepath)
	switch r.Method {
	case "Stat":
		out, err := f.run("stat -L -c '%f %s %Y %n' " + name)
		return one(out, path.Base(r.Filepath), err)
	case "Lstat":
		out, err := f.run(format + name)
		return one(out, path.Base(r.Filepath), err)
	case "Readlink":
		out, err := f.run("readlink " + name)
		if err != nil {
			return nil, err
		}
		return list{fileInfo{name: strings.TrimSuffix(out, "\n")}}, nil
	case "List":
		out, err := f.run("cd " + name + " && for f in * .[!.]* ..?*; do if [ -e \"$f\" ] || [ -L \"$f\" ]; then " + format + "\"./$f\" || exit; fi; done")
		if err != nil {
			return nil, err
		}
		var all list
		for line := range strings.Lines(out) {
			info, err := parseStat(line)
			if err != nil {
				return nil, err
			}
			info.name = path.Base(info.name)
			all = append(all, info)
		}
		return all, nil
	}
	return nil, sftp.ErrSSHFxOpUnsupported
}

// Lstat implements sftp.LstatFileLister.
func (f *files) Lstat(r *sftp.Request) (sftp.ListerAt, error) { return f.Filelist(r) }

func one(out, name string, err error) (sftp.ListerAt, error) {
	if err != nil {
		return nil, err
	}
	info, err := parseStat(out)
	if err != nil {
		return nil, err
	}
	info.name = name
	return list{info}, nil
}

type list []fs.FileInfo

// ListAt implements sftp.ListerAt.
func (l list) ListAt(into []fs.FileInfo, offset int64) (int, error) {
	if offset >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(into, l[offset:])
	if n < len(into) {
		return n, io.EOF
	}
	return n, nil
}

type fileInfo struct {
	name  string
	mode  uint32 // Unix's
	size  int64
	mtime int64
}

// parseStat reads one line of stat: mode in hex, size, time, name.
func parseStat(line string) (fileInfo, error) {
	var info fileInfo
	words := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
	if len(words) != 4 {
		return info, fmt.Errorf("the machine's stat says %.100q, which is no file (a name with a line end?)", line)
	}
	mode, err1 := strconv.ParseUint(words[0], 16, 32)
	size, err2 := strconv.ParseInt(words[1], 10, 64)
	mtime, err3 := strconv.ParseInt(words[2], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return info, fmt.Errorf("the machine's stat says %.100q, which is no file (a name with a line end?)", line)
	}
	return fileInfo{name: words[3], mode: uint32(mode), size: size, mtime: mtime}, nil
}

func (i fileInfo) Name() string       { return i.name }
func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) ModTime() time.Time { return time.Unix(i.mtime, 0) }
func (i fileInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i fileInfo) Sys() any           { return nil }

// Mode implements fs.FileInfo.
func (i fileInfo) Mode() fs.FileMode {
	mode := fs.FileMode(i.mode & 0o777)
	for bit, m := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if i.mode&bit != 0 {
			mode |= m
		}
	}
	switch i.mode & 0o170000 {
	case 0o040000:
		mode |= fs.ModeDir
	case 0o120000:
		mode |= fs.ModeSymlink
	case 0o010000:
		mode |= fs.ModeNamedPipe
	case 0o140000:
		mode |= fs.ModeSocket
	case 0o020000:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case 0o060000:
		mode |= fs.ModeDevice
	}
	return mode
}
