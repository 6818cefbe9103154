//go:build linux

package ec2

import (
	"crypto/ed25519"
	"crypto/md5" //nolint:gosec // the fingerprint of RSA keys is one
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // so is that of RSA keys made here
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

type keyPair struct {
	item
	name, keyType, fingerprint string
	public                     string // a line of authorized_keys
}

func (p *keyPair) values(_ *call, f string) []string {
	switch f {
	case "key-pair-id":
		return str(p.id)
	case "key-name":
		return str(p.name)
	case "fingerprint":
		return str(p.fingerprint)
	}
	return nil
}

type keyPairItem struct {
	answered
	ID          string    `xml:"keyPairId"`
	Name        string    `xml:"keyName"`
	Type        string    `xml:"keyType,omitempty"`
	Fingerprint string    `xml:"keyFingerprint"`
	Material    string    `xml:"keyMaterial,omitempty"`
	Public      string    `xml:"publicKey,omitempty"`
	Created     string    `xml:"createTime,omitempty"`
	Tags        []tagItem `xml:"tagSet>item"`
}

func (k *call) newKeyName(name string) error {
	if name == "" {
		return missing("KeyName")
	}
	if len(name) > 255 {
		return invalid("KeyName", "it is longer than 255 characters")
	}
	for _, p := range k.keyPairs.m {
		if p.name == name {
			return fail("InvalidKeyPair.Duplicate", "The keypair '%s' already exists.", name)
		}
	}
	if !k.within(QuotaKeys, len(k.keyPairs.m)+1) {
		return fail("KeyPairLimitExceeded", "The maximum number of key pairs has been reached.")
	}
	return nil
}

// colons writes a hash as fingerprints are written.
func colons(b []byte) string {
	s := make([]string, len(b))
	for i, v := range b {
		s[i] = fmt.Sprintf("%02x", v)
	}
	return strings.Join(s, ":")
}

func (k *call) createKeyPair(in *createKeyPairRequest) (*keyPairItem, error) {
	if err := k.newKeyName(in.KeyName); err != nil {
		return nil, err
	}
	if in.KeyFormat != "" && in.KeyFormat != "pem" {
		return nil, invalid("KeyFormat", "this emulator makes pem only, not %s", in.KeyFormat)
	}
	tags, err := specified(in.TagSpecification, kindKey)
	if err != nil {
		return nil, err
	}
	p := &keyPair{item: k.newItem(kindKey, tags["key-pair"]), name: in.KeyName, keyType: in.KeyType}
	var material []byte
	switch in.KeyType {
	case "", "rsa":
		p.keyType = "rsa"
		if err := k.commit(); err != nil {
			return nil, err
		}
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		pub, err := ssh.NewPublicKey(&key.PublicKey)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		sum := sha1.Sum(der) //nolint:gosec // as EC2 does
		p.fingerprint, p.public = colons(sum[:]), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))
		material = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	case "ed25519":
		if err := k.commit(); err != nil {
			return nil, err
		}
		pubKey, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		pub, err := ssh.NewPublicKey(pubKey)
		if err != nil {
			return nil, err
		}
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			return nil, err
		}
		p.fingerprint, p.public = ed25519Fingerprint(pub), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))
		material = pem.EncodeToMemory(block)
	default:
		return nil, invalid("KeyType", "%q is neither rsa nor ed25519", in.KeyType)
	}
	p.public += " " + p.name
	k.keyPairs.m[p.id] = p
	return &keyPairItem{*done, p.id, p.name, "", p.fingerprint, string(material), "", "", tagItems(p.tags)}, nil
}

func ed25519Fingerprint(pub ssh.PublicKey) string {
	sum := sha256.Sum256(pub.Marshal())
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (k *call) importKeyPair(in *importKeyPairRequest) (*keyPairItem, error) {
	if err := k.newKeyName(in.KeyName); err != nil {
		return nil, err
	}
	tags, err := specified(in.TagSpecification, kindKey)
	if err != nil {
		return nil, err
	}
	if in.PublicKeyMaterial == "" {
		return nil, missing("PublicKeyMaterial")
	}
	text, err := base64.StdEncoding.DecodeString(in.PublicKeyMaterial)
	if err != nil {
		return nil, fail("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return nil, fail("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
	}
	p := &keyPair{name: in.KeyName, public: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))) + " " + in.KeyName}
	switch pub.Type() {
	case ssh.KeyAlgoRSA:
		p.keyType = "rsa"
		der, err := x509.MarshalPKIXPublicKey(pub.(ssh.CryptoPublicKey).CryptoPublicKey())
		if err != nil {
			return nil, err
		}
		sum := md5.Sum(der) //nolint:gosec // as EC2 does
		p.fingerprint = colons(sum[:])
	case ssh.KeyAlgoED25519:
		p.keyType, p.fingerprint = "ed25519", ed25519Fingerprint(pub)
	default:
		return nil, fail("InvalidKey.Format", "Key is not in valid OpenSSH public key format: %s is not supported", pub.Type())
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	p.item = k.newItem(kindKey, tags["key-pair"])
	k.keyPairs.m[p.id] = p
	return &keyPairItem{*done, p.id, p.name, "", p.fingerprint, "", "", "", tagItems(p.tags)}, nil
}

// keyNamed finds a key pair by its name.
func (k *call) keyNamed(name string) (*keyPair, error) {
	for _, p := range k.keyPairs.m {
		if p.name == name && k.visible(&p.item, true) {
			return p, nil
		}
	}
	return nil, fail("InvalidKeyPair.NotFound", "The key pair '%s' does not exist", name)
}

type describeKeyPairsResponse struct {
	Pairs []keyPairItem `xml:"keySet>item"`
}

func (k *call) describeKeyPairs(in *describeKeyPairsRequest) (*describeKeyPairsResponse, error) {
	ids := append([]string{}, in.KeyPairId...)
	for _, n := range in.KeyName {
		p, err := k.keyNamed(n)
		if err != nil {
			return nil, err
		}
		ids = append(ids, p.id)
	}
	list, err := find(k, k.keyPairs, ids, in.Filter)
	if err != nil {
		return nil, err
	}
	out := &describeKeyPairsResponse{}
	for _, p := range list {
		i := keyPairItem{*done, p.id, p.name, p.keyType, p.fingerprint, "", "", iso(p.born), tagItems(p.tags)}
		if isTrue(in.IncludePublicKey) {
			i.Public = p.public
		}
		out.Pairs = append(out.Pairs, i)
	}
	return out, nil
}

type deleteKeyPairResponse struct {
	answered
	ID string `xml:"keyPairId,omitempty"`
}

func (k *call) deleteKeyPair(in *deleteKeyPairRequest) (*deleteKeyPairResponse, error) {
	if (in.KeyName == "") == (in.KeyPairId == "") {
		return nil, fail("MissingParameter", "Exactly one of KeyName and KeyPairId must be given")
	}
	if in.KeyPairId != "" {
		if _, err := k.keyPairs.get(k, in.KeyPairId); err != nil {
			return nil, err
		}
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	out := &deleteKeyPairResponse{answered: *done}
	for id, p := range k.keyPairs.m {
		if p.name == in.KeyName || id == in.KeyPairId {
			out.ID = id
			delete(k.keyPairs.m, id)
		}
	}
	return out, nil // a key pair that is not there is deleted, says EC2
}
