package specs

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func all(int) bool { return true }

func TestFramesKeepEveryByte(t *testing.T) {
	data := [][]byte{nil, []byte("\n"), []byte("no newline"), []byte("two\n\n"), {0, 255, '\n', 0}, []byte("\nTOKE\nTOKEN\nTOKENx B 0\n"), bytes.Repeat([]byte("x\n"), 50000)}
	var stream bytes.Buffer
	stream.WriteString("a banner\n")
	for i, d := range data {
		fmt.Fprintf(&stream, "\nTOKEN B %d\n%s\nTOKEN E %d %d\nbetween", i, d, i, i)
	}
	fmt.Fprintf(&stream, "\nTOKEN END %d\nafter", len(data))
	for _, chunk := range []int{1, 7, 4096, stream.Len()} {
		ended := 0
		f := newFrames("TOKEN", len(data), all, func() { ended++ })
		for b := stream.Bytes(); len(b) > 0; {
			n, err := f.Write(b[:min(chunk, len(b))])
			if err != nil {
				t.Fatal(err)
			}
			b = b[n:]
		}
		got, err := f.result()
		if err != nil || len(got) != len(data) || ended != 1 || f.preamble() != "a banner" {
			t.Fatalf("in chunks of %d: %d frames, %d ends, %q, %v", chunk, len(got), ended, f.preamble(), err)
		}
		for i, g := range got {
			if !bytes.Equal(g.data, data[i]) || g.status != i || g.ended.Before(g.began) {
				t.Errorf("in chunks of %d: frame %d is %q, status %d", chunk, i, g.data, g.status)
			}
		}
	}
}

// Whatever arrives, and however it is cut up: no panic, the same frames, and
// an end only after every frame.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("\nTOKEN B 0\nx\nTOKEN E 0 0\n\nTOKEN B 1\n\nTOKEN E 1 -\n\nTOKEN END 2\n"), 3)
	f.Add([]byte("\nTOKEN B 0\nTOKEN E 0 0\n"), 1)
	f.Add([]byte("\nTOKEN END 2\n"), 5)
	f.Add([]byte("\nTOKEN B 0 17\nx\nTOKEN E 0 0\n\nTOKEN B 1 -1\n"), 4)
	f.Add([]byte("\nTOKEN B 0\n\nTOKEN B 0\n\nTOKEN E 0 300\n"), 2)
	f.Add([]byte("\nTOKEN K 0"+strings.Repeat("x", 200)+"\n"), 2)
	f.Add([]byte("\nTOKEN B 0\n\nTOKEN E 0 "+strings.Repeat("0", 100)+"\n"), 2)
	f.Fuzz(func(t *testing.T, data []byte, chunk int) {
		read := func(size int) ([]frame, error, bool) {
			ended := false
			f := newFrames("TOKEN", 2, all, func() { ended = true })
			for b := data; len(b) > 0; {
				n := min(size, len(b))
				f.Write(b[:n])
				b = b[n:]
			}
			got, err := f.result()
			return got, err, ended
		}
		whole, err, ended := read(max(len(data), 1))
		if (err == nil) != ended || ended && len(whole) != 2 {
			t.Fatalf("%d frames, ended %v, %v", len(whole), ended, err)
		}
		cut, cutErr, _ := read(max(chunk%64, 1))
		if fmt.Sprint(err) != fmt.Sprint(cutErr) || len(whole) != len(cut) {
			t.Fatalf("in chunks: %d frames and %v instead of %d and %v", len(cut), cutErr, len(whole), err)
		}
		for i := range whole {
			if !bytes.Equal(whole[i].data, cut[i].data) || whole[i].status != cut[i].status {
				t.Errorf("frame %d: %q or %q", i, whole[i].data, cut[i].data)
			}
		}
	})
}
