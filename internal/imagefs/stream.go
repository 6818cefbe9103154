package imagefs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
	"syscall"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

func randomName() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func isCrossDevice(err error) bool { return errors.Is(err, syscall.EXDEV) }

// compressionOf looks at the first bytes of a file: "gzip", "zstd", "xz" or "none".
func compressionOf(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return "gzip"
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "zstd"
	// Skippable frames may stand before the first zstd frame.
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return "zstd"
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return "xz"
	}
	return "none"
}

// decompress reads a tar in any of the known compressions. done frees the decoder.
func decompress(r io.Reader) (_ io.Reader, done func(), err error) {
	br := bufio.NewReaderSize(r, 1<<20)
	head, err := br.Peek(6)
	if err == io.EOF {
		return nil, nil, errors.New("the archive is cut off or empty")
	}
	if err != nil {
		return nil, nil, err
	}
	done = func() {}
	switch compressionOf(head) {
	case "gzip":
		z, err := kgzip.NewReader(br)
		return z, done, err
	case "zstd":
		// The window bounds what a hostile archive makes us allocate.
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(512<<20))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case "xz":
		z, err := xz.NewReader(br)
		return z, done, err
	}
	return br, done, nil
}

// readAhead reads and hashes in its own goroutine, so that decompression,
// hashing and the writing of files overlap.
type readAhead struct {
	full, free chan []byte
	quit       chan struct{}
	sum        hash.Hash
	err        error // set before full is closed
	cur, rest  []byte
}

func newReadAhead(r io.Reader) *readAhead {
	const buffers = 4
	ra := &readAhead{
		full: make(chan []byte, buffers), free: make(chan []byte, buffers),
		quit: make(chan struct{}), sum: sha256.New(),
	}
	for range buffers {
		ra.free <- make([]byte, 512<<10)
	}
	go func() {
		defer close(ra.full)
		for {
			var buf []byte
			select {
			case buf = <-ra.free:
			case <-ra.quit:
				return
			}
			// Not io.ReadFull, whose ErrUnexpectedEOF is also a decoder's word
			// for an archive that was cut off.
			n, err := 0, error(nil)
			for n < len(buf) && err == nil {
				var k int
				k, err = r.Read(buf[n:])
				n += k
			}
			ra.sum.Write(buf[:n])
			if n > 0 {
				ra.full <- buf[:n] // never blocks: it has room for every buffer
			}
			if err != nil {
				if err != io.EOF {
					ra.err = err
				}
				return
			}
		}
	}()
	return ra
}

func (ra *readAhead) Read(p []byte) (int, error) {
	for len(ra.rest) == 0 {
		if ra.cur != nil {
			ra.free <- ra.cur[:cap(ra.cur)]
			ra.cur = nil
		}
		buf, ok := <-ra.full
		if !ok {
			if ra.err != nil {
				return 0, ra.err
			}
			return 0, io.EOF
		}
		ra.cur, ra.rest = buf, buf
	}
	n := copy(p, ra.rest)
	ra.rest = ra.rest[n:]
	return n, nil
}

// digest is that of everything read, once Read has returned io.EOF.
func (ra *readAhead) digest() string { return sumDigest(ra.sum.Sum(nil)) }

// stop ends the goroutine and waits until it no longer reads.
func (ra *readAhead) stop() {
	close(ra.quit)
	for range ra.full {
	}
}

// Compressions of tars and layers.
const (
	CompressZstd = "zstd"
	CompressGzip = "gzip"
	CompressNone = "none"
)

// frameSize is how much is compressed at a time. It is part of what makes the
// output the same on every machine.
const frameSize = 2 << 20

type frame struct {
	raw, out []byte
	done     chan struct{}
}

// frameWriter compresses in independent frames, several at once. Its output
// does not depend on how many. It hashes what goes in.
type frameWriter struct {
	ctx    context.Context
	cur    *frame
	free   chan *frame
	work   chan *frame // to the encoders; nil: no compression
	order  chan *frame // to the goroutine that writes
	failed chan struct{}
	err    error // set before failed or finished is closed
	ended  chan struct{}
	sum    hash.Hash
	wg     sync.WaitGroup
}

// newFrameWriter starts workers encoders (0: one per CPU) that write to w.
func newFrameWriter(ctx context.Context, w io.Writer, compression string, level, workers int) (*frameWriter, error) {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	newEncoder, err := encoderFor(compression, level)
	if err != nil {
		return nil, err
	}
	frames := 2*workers + 2
	fw := &frameWriter{
		ctx: ctx, free: make(chan *frame, frames), order: make(chan *frame, frames),
		failed: make(chan struct{}), ended: make(chan struct{}), sum: sha256.New(),
	}
	for range frames {
		fw.free <- &frame{raw: make([]byte, 0, frameSize)}
	}
	if newEncoder != nil {
		fw.work = make(chan *frame, frames)
		for range workers {
			fw.wg.Go(func() {
				encode := newEncoder()
				for f := range fw.work {
					f.out = encode(f.out[:0], f.raw)
					close(f.done)
				}
			})
		}
	}
	go func() {
		defer close(fw.ended)
		for f := range fw.order {
			fw.sum.Write(f.raw)
			out := f.raw
			if fw.work != nil {
				<-f.done
				out = f.out
			}
			if fw.err == nil {
				if _, err := w.Write(out); err != nil {
					fw.err = err
					close(fw.failed)
				}
			}
			f.raw = f.raw[:0]
			fw.free <- f // never blocks: it has room for every frame
		}
	}()
	return fw, nil
}

// encoderFor returns nil for no compression.
func encoderFor(compression string, level int) (func() func(dst, src []byte) []byte, error) {
	switch compression {
	case CompressNone:
		return nil, nil
	case CompressZstd, "":
		l := zstd.SpeedDefault
		if level != 0 {
			l = zstd.EncoderLevelFromZstd(level)
		}
		return func() func(dst, src []byte) []byte {
			// The options are constants that are always valid.
			enc, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(l), zstd.WithEncoderConcurrency(1))
			return func(dst, src []byte) []byte { return enc.EncodeAll(src, dst) }
		}, nil
	case CompressGzip:
		if level == 0 {
			level = kgzip.DefaultCompression
		}
		if level < gzip.HuffmanOnly || level > gzip.BestCompression {
			return nil, fmt.Errorf("gzip has no compression level %d: want 1 to 9", level)
		}
		return func() func(dst, src []byte) []byte {
			enc, _ := kgzip.NewWriterLevel(nil, level)
			return func(dst, src []byte) []byte {
				buf := bytes.NewBuffer(dst)
				enc.Reset(buf)
				enc.Write(src) // a bytes.Buffer takes everything
				enc.Close()
				return buf.Bytes()
			}
		}, nil
	}
	return nil, fmt.Errorf("unknown compression %q: want zstd, gzip or none", compression)
}

func (fw *frameWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if fw.cur == nil {
			select {
			case fw.cur = <-fw.free:
			case <-fw.failed:
				return 0, fw.err
			case <-fw.ctx.Done():
				return 0, context.Cause(fw.ctx)
			}
		}
		f := fw.cur
		k := copy(f.raw[len(f.raw):frameSize], p)
		f.raw, p = f.raw[:len(f.raw)+k], p[k:]
		if len(f.raw) == frameSize {
			fw.send()
		}
	}
	return n, nil
}

func (fw *frameWriter) send() {
	f := fw.cur
	fw.cur = nil
	f.done = make(chan struct{})
	fw.order <- f
	if fw.work != nil {
		fw.work <- f
	}
}

// Close writes what is left, ends the goroutines, and returns the first error
// of the writer below. It must be called once, also after a failure.
func (fw *frameWriter) Close() error {
	if fw.cur != nil {
		fw.send()
	}
	close(fw.order)
	if fw.work != nil {
		close(fw.work)
	}
	<-fw.ended
	fw.wg.Wait()
	return fw.err
}

// digest is that of everything written, after Close.
func (fw *frameWriter) digest() string { return sumDigest(fw.sum.Sum(nil)) }
