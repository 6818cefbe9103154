package datachannel

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// The frame is written out by hand from the layout that Amazon's client and
// agent share, so that a mistake in both Append and Parse is seen.
func golden(t *testing.T) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(`
		00000074
		696e7075745f73747265616d5f64617461 202020202020202020202020202020
		00000001
		00000192bb6f4a15
		0000000000000102
		0000000000000001
		8899aabbccddeeff 0011223344556677
		2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
		00000001
		00000005
		68656c6c6f`), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFrame(t *testing.T) {
	want := golden(t)
	m := Message{
		Type: InputStream, Created: time.UnixMilli(0x192bb6f4a15), Sequence: 258, Flags: 1,
		ID: uuid.MustParse("00112233-4455-6677-8899-aabbccddeeff"), PayloadType: Data, Payload: []byte("hello"),
	}
	if got := m.Append([]byte("x")); string(got) != "x"+string(want) {
		t.Errorf("the frame is\n%x, want\n%x", got[1:], want)
	}
	got, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	if got.Type != m.Type || !got.Created.Equal(m.Created) || got.Sequence != m.Sequence || got.Flags != m.Flags ||
		got.ID != m.ID || got.PayloadType != m.PayloadType || !bytes.Equal(got.Payload, m.Payload) {
		t.Errorf("read as %+v, want %+v", got, m)
	}
}

func TestParseRefuses(t *testing.T) {
	good := golden(t)
	with := func(at int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return b
	}
	for name, c := range map[string]struct {
		frame []byte
		want  string
	}{
		"nothing":      {nil, "no whole header"},
		"short":        {good[:headerSize-1], "no whole header"},
		"header short": {with(0, 0, 0, 0, 1), "header says that it is 1 byte"},
		"header long":  {with(0, 0xff, 0xff, 0xff, 0xff), "4294967295 bytes"},
		"no type":      {with(atType, bytes.Repeat([]byte{' '}, 32)...), "no message type"},
		"cut":          {good[:len(good)-1], "payload is 5 bytes long, and there are 4"},
		"more":         {append(bytes.Clone(good), 1), "there are 6"},
		"digest":       {with(len(good)-1, 'O'), "digest"},
	} {
		if m, err := Parse(c.frame); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want %q", name, m, err, c.want)
		}
	}
	// A longer header is read over, and the service's own messages have no digest.
	longer := append(bytes.Clone(good[:atLength]), append([]byte{9, 9, 9, 9}, good[atLength:]...)...)
	longer[3] += 4
	if m, err := Parse(longer); err != nil || string(m.Payload) != "hello" {
		t.Errorf("with a longer header: %v, %v", m, err)
	}
	pause := Message{Type: PausePublication}
	frame := append(pause.Append(nil), "?"...)
	if m, err := Parse(frame); err != nil || m.Type != PausePublication {
		t.Errorf("pause: %v, %v", m, err)
	}
}

func FuzzParse(f *testing.F) {
	m := Message{Type: OutputStream, Payload: []byte("hello"), PayloadType: Data}
	f.Add(m.Append(nil))
	f.Add([]byte{})
	a := Message{Type: Acknowledge, Payload: []byte(`{"AcknowledgedMessageSequenceNumber":0}`)}
	f.Add(a.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Parse(b)
		if err != nil {
			return
		}
		again, err := Parse(m.Append(nil))
		if err != nil {
			t.Fatalf("what was read cannot be read when written again: %v", err)
		}
		if again.Type != m.Type || again.Sequence != m.Sequence || !bytes.Equal(again.Payload, m.Payload) || again.ID != m.ID {
			t.Fatalf("%+v became %+v", m, again)
		}
		// Nothing of it may harm a channel.
		c := New(Config{Send: InputStream, Receive: OutputStream, Handle: func(uint32, []byte) error { return nil }})
		_ = c.receive(m)
	})
}
