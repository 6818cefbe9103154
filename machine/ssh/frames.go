package sshmachine

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/machine"
)

// A machine with neither tar nor sftp gets its files by a script: one line for
// each, then its bytes. Such machines are rare and their files few: it is
// slower, since the script starts some programs for each file.

// takeFunction is sh that copies exactly $1 bytes of stdin. Which program does
// not read more than it copies, the script finds out.
const takeFunction = `if [ "$(printf abcd | { dd bs=2 count=1 iflag=fullblock >/dev/null 2>&1; cat; })" = cd ]; then
	take() {
		[ $(($1 / 65536)) = 0 ] || dd bs=65536 count=$(($1 / 65536)) iflag=fullblock || return
		[ $(($1 % 65536)) = 0 ] || dd bs=$(($1 % 65536)) count=1 iflag=fullblock
	}
elif [ "$(printf abcd | { head -c 2 >/dev/null 2>&1; cat; })" = cd ]; then take() { head -c $1; }
else take() { dd bs=1 count=$1; }
fi
`

// putFrames unpacks below the current directory. A line has a kind, the mode,
// the time, owner and group, the size, the name and what it links to. It ends
// with the line "end", so that a stream that was cut is no success.
const putFrames = takeFunction + `fail() { echo "$n: $1" >&2; exit 1; }
root=; [ "$(id -u)" = 0 ] && root=yes
clear() {
	[ -d "$n" ] && [ ! -h "$n" ] && fail "a directory of this name is in the way"
	rm -f "$n" || fail "it cannot be replaced"
}
parent() { d=${n%/*}; [ -d "$d" ] || mkdir -p "$d" || fail "its directory cannot be made"; }
attributes() {
	[ -z "$root" ] || [ $o = 0:0 ] || chown $o "$n" || fail "its owner cannot be set"
	chmod $m "$n" && TZ=UTC0 touch -t $t "$n" || fail "its mode and time cannot be set"
}
while read -r k m t o z n l; do
	case $n in *\\*) n=$(printf %bx "$n"); n=${n%x};; esac
	case $l in *\\*) l=$(printf %bx "$l"); l=${l%x};; esac
	case $k in
	end) exit 0;;
	dir) parent; [ -d "$n" ] || mkdir "$n" || fail "it cannot be made"; chmod u+rwx "$n" || fail "it cannot be made writable";;
	dirend) attributes;;
	file)
		parent; clear
		e=$(umask 077; take $z 2>&1 >"$n") || fail "it cannot be written: $e"
		[ $(wc -c <"$n") = $z ] || fail "it was not written whole"
		attributes;;
	symlink) parent; clear; ln -s -- "$l" "$n" || fail "it cannot be made";;
	link) parent; clear; ln "$l" "$n" || fail "it cannot be made";;
	*) echo "the stream is damaged" >&2; exit 1;;
	esac
done
echo "the stream ends early" >&2
exit 1
`

func (m *Machine) putFrames(ctx context.Context, dst string, tree machine.Tree) error {
	q := machine.Quote(dst)
	return m.putStream(ctx, "mkdir -p -- "+q+" && cd -- "+q+" || exit 1\n"+putFrames, framesOf{tree})
}

// framesOf is a tree whose stream is frames.
type framesOf struct{ machine.Tree }

func (f framesOf) WriteTar(ctx context.Context, w io.Writer) error {
	return machine.Copy(ctx, f.Tree, frameSink{w})
}

// frameSink turns a tar stream into frames.
type frameSink struct{ w io.Writer }

func (s frameSink) ReadTar(_ context.Context, r io.Reader) error {
	w := bufio.NewWriterSize(s.w, 64<<10)
	tr := tar.NewReader(r)
	var dirs []*tar.Header
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		kind := map[byte]string{tar.TypeDir: "dir", tar.TypeReg: "file", tar.TypeSymlink: "symlink", tar.TypeLink: "link"}[h.Typeflag]
		if kind == "" {
			return fmt.Errorf("%q is neither file, directory nor link", h.Name)
		}
		if kind == "link" {
			h.Linkname = "./" + path.Clean(h.Linkname)
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, h)
		}
		frameLine(w, kind, h)
		if _, err := io.Copy(w, tr); err != nil {
			return err
		}
	}
	for _, h := range slices.Backward(dirs) {
		frameLine(w, "dirend", h)
	}
	fmt.Fprintln(w, "end 0 0 0 0 . .")
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

func frameLine(w io.Writer, kind string, h *tar.Header) {
	// An error stays in the writer.
	fmt.Fprintf(w, "%s %o %s %d:%d %d %s %s\n", kind, h.Mode&0o7777, h.ModTime.UTC().Format("200601021504.05"), h.Uid, h.Gid, h.Size,
		frameWord("./"+path.Clean(h.Name)), frameWord(h.Linkname))
}

// frameWord is a word that `read` and printf %b give back.
func frameWord(s string) string {
	if s == "" {
		return "."
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == '\\' {
			fmt.Fprintf(&b, `\0%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// getFrames prints what stands at $s: for each file one line with kind, mode,
// time, size, file number and owner; then its name and what it links to, each
// ended by NUL; then its bytes and the mark, since a file may change while it
// is read. $KEY is the mark.
const getFrames = `export KEY LC_ALL=C
each='o=$1; shift; stat $o -c "%a %Y %s %d:%i %h %u %g" -- "$@" | while read -r m t z i h u g; do
	f=$1; shift; l=
	if [ -z "$o" ] && [ -h "$f" ]; then k=symlink z=0; l=$(readlink -- "$f"; echo x); l=${l%?x}
	elif [ -d "$f" ]; then k=dir z=0
	elif [ -f "$f" ]; then k=file
	else echo "$f: it is neither file, directory nor symbolic link" >&2; k=bad z=0
	fi
	n=$f; [ -z "$o" ] || n=./${f##*/}
	printf "%s %s %s %s %s %s %s %s\n%s\000%s\000" $k $m $t $z $i $h $u $g "$n" "$l"
	[ $z = 0 ] || cat -- "$f"
	printf "%s\n" "$KEY"
done'
command -v stat >/dev/null 2>&1 && stat -c %a / >/dev/null 2>&1 || { echo "the machine has neither tar nor sftp, and no stat that could stand in for them" >&2; exit 1; }
if [ -d "$s" ]; then cd -- "$s" && find . -exec sh -c "$each" sh "" {} +
elif [ -e "$s" ]; then
	case $s in /*) ;; *) s=./$s;; esac
	sh -c "$each" sh -L "$s"
else echo "$s: no such file or directory" >&2; exit 1
fi || exit
printf 'end 0 0 0 0 0 0 0\n'
`

func (m *Machine) getFrames(ctx context.Context, src string, into machine.Sink) error {
	mark := rand.Text()
	return m.getStream(ctx, "KEY="+mark+" s="+machine.Quote(src)+"\n"+getFrames, unframe{into, mark})
}

// unframe gives a sink the frames as tar.
type unframe struct {
	machine.Sink
	mark string
}

func (u unframe) ReadTar(ctx context.Context, r io.Reader) error {
	err := machine.Copy(ctx, frameTree{r, u.mark}, u.Sink)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	return err
}

type frameTree struct {
	r    io.Reader
	mark string
}

// maxName bounds a name from the machine: no path is longer there.
const maxName = 64 << 10

// WriteTar implements machine.Tree.
func (f frameTree) WriteTar(ctx context.Context, w io.Writer) error {
	in := bufio.NewReaderSize(f.r, maxName)
	tw := tar.NewWriter(w)
	first := map[string]string{}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, id, err := frameHeader(in)
		if err != nil {
			return early(err)
		}
		if h == nil {
			return tw.Close()
		}
		size := h.Size
		if id != "" {
			if name := first[id]; name != "" {
				h.Typeflag, h.Linkname, h.Size = tar.TypeLink, name, 0
			} else {
				first[id] = h.Name
			}
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		to := io.Writer(tw)
		if h.Typeflag == tar.TypeLink {
			to = io.Discard
		}
		if _, err := io.CopyN(to, in, size); err != nil {
			return early(err)
		}
		end, err := in.ReadSlice('\n')
		if err == io.EOF {
			return early(err)
		}
		if string(bytes.TrimSuffix(end, []byte("\n"))) != f.mark {
			return fmt.Errorf("%q changed while it was read, or could not be read", h.Name)
		}
	}
}

func early(err error) error {
	if err == io.EOF {
		return fmt.Errorf("the machine's answer ends early: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// frameHeader reads up to the content of a frame. nil: it was the last. id is
// what files that are one have in common, if this has several names.
func frameHeader(in *bufio.Reader) (h *tar.Header, id string, err error) {
	damaged := errors.New("the machine's answer is damaged")
	line, err := in.ReadSlice('\n')
	if err != nil {
		return nil, "", err
	}
	f := strings.Fields(string(line))
	if len(f) != 8 {
		return nil, "", damaged
	}
	if f[0] == "end" {
		return nil, "", nil
	}
	var n [6]int64
	for i, s := range []string{f[1], f[2], f[3], f[5], f[6], f[7]} {
		base := 10
		if i == 0 {
			base = 8
		}
		if n[i], err = strconv.ParseInt(s, base, 64); err != nil || n[i] < 0 && i != 1 {
			return nil, "", damaged
		}
	}
	name, err := in.ReadSlice(0)
	if err != nil {
		return nil, "", err
	}
	h = &tar.Header{Name: path.Clean(strings.TrimSuffix(string(name), "\x00")), Mode: n[0] & 0o7777, ModTime: time.Unix(n[1], 0), Uid: int(n[4] & 0xffffffff), Gid: int(n[5] & 0xffffffff), Format: tar.FormatGNU}
	link, err := in.ReadSlice(0)
	if err != nil {
		return nil, "", err
	}
	switch f[0] {
	case "dir":
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case "symlink":
		h.Typeflag, h.Linkname = tar.TypeSymlink, strings.TrimSuffix(string(link), "\x00")
	case "file":
		h.Typeflag, h.Size = tar.TypeReg, n[2]
		if n[3] > 1 {
			id = f[4]
		}
	default:
		return nil, "", fmt.Errorf("%q: %w", h.Name, fs.ErrInvalid)
	}
	return h, id, nil
}
