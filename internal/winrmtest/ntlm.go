package winrmtest

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/rc4"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"

	//lint:ignore SA1019 NTLM hashes passwords with it
	"golang.org/x/crypto/md4"
)

// ntlm is the server's side of one login by MS-NLMP, NTLMv2 only, with
// extended session security, and of the encryption that follows.
type ntlm struct {
	hello, challenge []byte
	nonce            [8]byte
	loggedIn         bool

	in, out       *rc4.Cipher
	inKey, outKey []byte
	inSeq, outSeq uint32
}

const ntlmFlags = 0x00000001 | // Unicode
	0x00000004 | 0x00000010 | 0x00000020 | // target, sign, seal
	0x00000200 | 0x00008000 | // NTLM, always sign
	0x00080000 | 0x00800000 | 0x02000000 | // extended security, target info, version
	0x20000000 | 0x40000000 | 0x80000000 // 128 bits, key exchange, 56 bits

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(md5.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// answer takes the client's first message and makes the challenge.
func (n *ntlm) answer(hello []byte, weak bool) []byte {
	rand.Read(n.nonce[:])
	n.hello = hello
	var info []byte
	pair := func(id uint16, v []byte) {
		info = binary.LittleEndian.AppendUint16(info, id)
		info = binary.LittleEndian.AppendUint16(info, uint16(len(v)))
		info = append(info, v...)
	}
	pair(2, utf16le("WINDOWS"))
	pair(1, utf16le("WINDOWS"))
	pair(7, binary.LittleEndian.AppendUint64(nil, uint64(time.Now().UnixNano()/100+116444736000000000)))
	pair(0, nil)

	flags := uint32(ntlmFlags)
	if weak {
		flags &^= 0x20 // no sealing
	}
	target := utf16le("WINDOWS")
	b := append([]byte("NTLMSSP\x00"), 2, 0, 0, 0)
	field := func(length, offset int) {
		b = binary.LittleEndian.AppendUint16(b, uint16(length))
		b = binary.LittleEndian.AppendUint16(b, uint16(length))
		b = binary.LittleEndian.AppendUint32(b, uint32(offset))
	}
	field(len(target), 56)
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = append(b, n.nonce[:]...)
	b = append(b, make([]byte, 8)...)
	field(len(info), 56+len(target))
	b = append(b, 10, 0, 0x39, 0x38, 0, 0, 0, 15)
	b = append(append(b, target...), info...)
	n.challenge = b
	return b
}

// check takes the client's second message.
func (n *ntlm) check(msg []byte, user, password string) error {
	if len(msg) < 88 || !bytes.HasPrefix(msg, []byte("NTLMSSP\x00\x03\x00\x00\x00")) {
		return errors.New("no NTLM authenticate message")
	}
	field := func(at int) []byte {
		length, offset := int(binary.LittleEndian.Uint16(msg[at:])), int(binary.LittleEndian.Uint32(msg[at+4:]))
		if offset > len(msg) || offset+length > len(msg) {
			return nil
		}
		return msg[offset : offset+length]
	}
	response, domain, name, key := field(20), field(28), field(36), field(52)
	if !bytes.Equal(bytes.ToLower(name), utf16le(strings.ToLower(user))) {
		return errors.New("another user")
	}
	if len(response) < 44 {
		return errors.New("no NTLMv2 response")
	}
	h := md4.New()
	h.Write(utf16le(password))
	owf := mac(h.Sum(nil), utf16le(strings.ToUpper(user)), domain)
	proof := mac(owf, n.nonce[:], response[16:])
	if !hmac.Equal(proof, response[:16]) {
		return errors.New("wrong password")
	}
	exported := make([]byte, 16)
	if len(key) != 16 {
		return errors.New("no session key")
	}
	c, err := rc4.NewCipher(mac(owf, proof))
	if err != nil {
		return err
	}
	c.XORKeyStream(exported, key)
	// The challenge has a timestamp, so the message has a MIC.
	blank := bytes.Clone(msg)
	copy(blank[72:88], make([]byte, 16))
	if !hmac.Equal(mac(exported, n.hello, n.challenge, blank), msg[72:88]) {
		return errors.New("the message's integrity code is wrong")
	}
	sum := func(constant string) []byte {
		d := md5.Sum(append(bytes.Clone(exported), constant+" magic constant\x00"...))
		return d[:]
	}
	n.inKey, n.outKey = sum("session key to client-to-server signing key"), sum("session key to server-to-client signing key")
	if n.in, err = rc4.NewCipher(sum("session key to client-to-server sealing key")); err != nil {
		return err
	}
	if n.out, err = rc4.NewCipher(sum("session key to server-to-client sealing key")); err != nil {
		return err
	}
	n.loggedIn = true
	return nil
}

func signature(c *rc4.Cipher, key []byte, seq uint32, text []byte) []byte {
	number := binary.LittleEndian.AppendUint32(nil, seq)
	sum := mac(key, number, text)[:8]
	c.XORKeyStream(sum, sum)
	return append(append([]byte{1, 0, 0, 0}, sum...), number...)
}

func (n *ntlm) unseal(sealed, sig []byte) ([]byte, error) {
	text := make([]byte, len(sealed))
	n.in.XORKeyStream(text, sealed)
	want := signature(n.in, n.inKey, n.inSeq, text)
	n.inSeq++
	if !hmac.Equal(want, sig) {
		return nil, errors.New("a message's signature is wrong")
	}
	return text, nil
}

func (n *ntlm) seal(text []byte) (sealed, sig []byte) {
	sealed = make([]byte, len(text))
	n.out.XORKeyStream(sealed, text)
	sig = signature(n.out, n.outKey, n.outSeq, text)
	n.outSeq++
	return sealed, sig
}

// unpackSealed and packSealed are MS-WSMV 2.2.9.1.
func unpackSealed(b []byte) (sealed, sig []byte, length int, err error) {
	parts := bytes.SplitN(b, []byte("--Encrypted Boundary\r\n"), 3)
	if len(parts) != 3 || len(parts[0]) != 0 {
		return nil, nil, 0, errors.New("not two parts")
	}
	const head = "\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length="
	if !bytes.HasPrefix(parts[1], []byte(head)) {
		return nil, nil, 0, fmt.Errorf("the first part is %.200q", parts[1])
	}
	if _, err := fmt.Sscanf(string(parts[1][len(head):]), "%d\r\n", &length); err != nil {
		return nil, nil, 0, err
	}
	data, ok := bytes.CutPrefix(parts[2], []byte("\tContent-Type: application/octet-stream\r\n"))
	data, end := bytes.CutSuffix(data, []byte("--Encrypted Boundary--\r\n"))
	if !ok || !end || len(data) < 20 || binary.LittleEndian.Uint32(data) != 16 {
		return nil, nil, 0, errors.New("the second part is malformed")
	}
	return data[20:], data[4:20], length, nil
}

func packSealed(sealed, sig []byte, length int) []byte {
	b := fmt.Appendf(nil, "--Encrypted Boundary\r\n\tContent-Type: application/HTTP-SPNEGO-session-encrypted\r\n"+
		"\tOriginalContent: type=application/soap+xml;charset=UTF-8;Length=%d\r\n"+
		"--Encrypted Boundary\r\n\tContent-Type: application/octet-stream\r\n", length)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(sig)))
	b = append(append(b, sig...), sealed...)
	return append(b, "--Encrypted Boundary--\r\n"...)
}
