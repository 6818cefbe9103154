package winrm

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/bodgit/ntlmssp"

	"github.com/ingotbuild/ingot/internal/powershelltest"
)

func TestScripts(t *testing.T) {
	for name, text := range map[string]string{"put": putScript, "get": getScript} {
		if n := len(engine.Line(text)); n > maxLine {
			t.Errorf("%s: the command line has %d characters, and cmd.exe takes %d", name, n, maxLine)
		}
	}
	powershelltest.Parse(t, map[string]string{"put": putScript, "get": getScript, "bad": putScript + "}"})
}

func TestRootKnowsVariables(t *testing.T) {
	for in, want := range map[string]string{
		`$env:TEMP\x`: `%TEMP%\x`, `$ENV:Temp/$env:a_1`: `%Temp%/%a_1%`, `%TEMP%`: `%TEMP%`, `C:/$x`: `C:/$x`, "'; exit": "'; exit",
	} {
		if got := rootLine(in); got != "R "+encodeName(want)+"\r\n" {
			t.Errorf("%s: %q", in, got)
		}
	}
}

// A tree that is cut is an error, wherever it is cut.
func TestTruncatedTar(t *testing.T) {
	var whole bytes.Buffer
	w := tar.NewWriter(&whole)
	for _, name := range []string{"a", "b"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: 1000, Mode: 0o600, Format: tar.FormatGNU}); err != nil {
			t.Fatal(err)
		}
		w.Write(make([]byte, 1000))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{100, 512, 700, 1511, 1600, 2100} {
		if _, err := encodeTree(bytes.NewReader(whole.Bytes()[:n]), io.Discard, "C:/"); err == nil && n%512 != 0 {
			t.Errorf("cut at %d: no error", n)
		}
	}
	if n, err := encodeTree(&whole, io.Discard, "C:/"); n != 2 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
}

const sample = `<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" xmlns:rsp="http://schemas.microsoft.com/wbem/wsman/1/windows/shell"><s:Header><RelatesTo>uuid:1</RelatesTo></s:Header><s:Body>%s</s:Body></s:Envelope>`

// TestNoOutputIsMadeUp: each of these must be an error.
func TestNoOutputIsMadeUp(t *testing.T) {
	for name, body := range map[string]string{
		"no response":   ``,
		"bad base64":    `<rsp:ReceiveResponse><rsp:Stream Name="stdout">=x</rsp:Stream></rsp:ReceiveResponse>`,
		"cut base64":    `<rsp:ReceiveResponse><rsp:Stream Name="stdout">YWJ</rsp:Stream></rsp:ReceiveResponse>`,
		"other stream":  `<rsp:ReceiveResponse><rsp:Stream Name="x">YWJj</rsp:Stream></rsp:ReceiveResponse>`,
		"no status":     `<rsp:ReceiveResponse><rsp:CommandState State="` + stateDone + `"/></rsp:ReceiveResponse>`,
		"empty status":  `<rsp:ReceiveResponse><rsp:CommandState State="` + stateDone + `"><rsp:ExitCode/></rsp:CommandState></rsp:ReceiveResponse>`,
		"wrong status":  `<rsp:ReceiveResponse><rsp:CommandState State="` + stateDone + `"><rsp:ExitCode>0x0</rsp:ExitCode></rsp:CommandState></rsp:ReceiveResponse>`,
		"status beyond": `<rsp:ReceiveResponse><rsp:CommandState State="` + stateDone + `"><rsp:ExitCode>4294967296</rsp:ExitCode></rsp:CommandState></rsp:ReceiveResponse>`,
	} {
		r, err := parseReply(fmt.Appendf(nil, sample, body), "uuid:1")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if out, err := r.output(); err == nil {
			t.Errorf("%s: %+v", name, out)
		}
	}
	if _, err := parseReply(fmt.Appendf(nil, sample, ""), "uuid:2"); err == nil {
		t.Error("a reply to another message was taken")
	}
}

func FuzzReply(f *testing.F) {
	f.Add(fmt.Appendf(nil, sample, `<rsp:ReceiveResponse><rsp:Stream Name="stdout" CommandId="x">YWJj</rsp:Stream><rsp:CommandState State="`+stateDone+`"><rsp:ExitCode>0</rsp:ExitCode></rsp:CommandState></rsp:ReceiveResponse>`))
	f.Add(fmt.Appendf(nil, sample, `<s:Fault><s:Code><s:Value>s:Receiver</s:Value><s:Subcode><s:Value>w:TimedOut</s:Value></s:Subcode></s:Code><s:Reason><s:Text>x</s:Text></s:Reason><s:Detail><WSManFault Code="2150858793"><Message>y</Message></WSManFault></s:Detail></s:Fault>`))
	f.Add([]byte("<"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseReply(b, "uuid:1")
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x00\x1b\r") {
				t.Errorf("control characters in %q", err)
			}
			return
		}
		_, _ = r.shellID()
		_, _ = r.commandID()
		if out, err := r.output(); err == nil && out.done && !bytes.Contains(b, []byte("ExitCode")) {
			t.Error("an exit status was made up")
		}
	})
}

func FuzzTree(f *testing.F) {
	f.Add([]byte("D eA==\r\nF YQ== 3 0 w\r\n+ YWJj\r\n= BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD\r\n. 2\r\n"), uint8(3))
	f.Add([]byte("\xef\xbb\xbf. 0\n"), uint8(200))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		var out bytes.Buffer
		d := &decoder{tar: tar.NewWriter(&out)}
		for len(b) > 0 {
			n := min(int(step)+1, len(b))
			if _, err := d.Write(b[:n]); err != nil {
				return
			}
			b = b[n:]
		}
		if d.finish() != nil {
			return
		}
		tr := tar.NewReader(&out)
		for n := 0; ; n++ {
			_, err := tr.Next()
			if err == io.EOF {
				if n != d.count {
					t.Errorf("%d entries of %d", n, d.count)
				}
				return
			}
			if err != nil {
				t.Fatalf("the tar stream is broken: %v", err)
			}
		}
	})
}

func FuzzSealed(f *testing.F) {
	f.Add(pack([]byte("sealed"), make([]byte, 16), 6))
	f.Add(pack(nil, nil, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		sealed, signature, length, err := unpack(b)
		if err == nil && (len(signature) != 16 || length < 0 || len(sealed) > len(b)) {
			t.Errorf("%d, %d, %d", len(sealed), len(signature), length)
		}
	})
}

func FuzzChallenge(f *testing.F) {
	b := append([]byte("NTLMSSP\x00\x02\x00\x00\x00"), make([]byte, 44)...)
	binary.LittleEndian.PutUint32(b[20:], ntlmSealing|0x00800000)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ntlmssp.NewClient(ntlmssp.SetUserInfo("u", "p"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Authenticate(nil, nil); err != nil {
			t.Fatal(err)
		}
		_, _ = answerChallenge(n, b, true)
	})
}

func TestSealedForm(t *testing.T) {
	sealed, signature, length, err := unpack(pack([]byte("sealed \r\n"), []byte("0123456789abcdef"), 9))
	if err != nil || string(sealed) != "sealed \r\n" || string(signature) != "0123456789abcdef" || length != 9 {
		t.Errorf("%q, %q, %d, %v", sealed, signature, length, err)
	}
}
