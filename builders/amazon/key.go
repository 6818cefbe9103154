package amazon

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// keyPair is what logs in. The private half of a temporary one never leaves
// this process.
type keyPair struct {
	name    string // as EC2 knows it; "": none
	private []byte // PEM; nil: not ours
	public  string // a line of authorized_keys
}

// needsKey says whether a temporary key pair is to be made.
func (r *running) needsKey() bool {
	c := r.comm
	if c.SSHKeypairName != "" {
		return false
	}
	switch c.Kind() {
	case communicator.SSHKind:
		return c.SSHPrivateKeyFile == "" && !c.SSHAgentAuth && c.SSHPassword == ""
	case communicator.WinRMKind:
		return c.WinRMPassword == "" && c.SSHPrivateKeyFile == ""
	}
	return false
}

func isWindowsImage(i types.Image) bool { return strings.EqualFold(string(i.Platform), "windows") }

// makeKey makes a key here and tells EC2 its public half.
func (r *running) makeKey(ctx context.Context, l builders.Lease) error {
	options := r.comm.SSH
	if options.TemporaryKeyPairType == "" {
		windows := r.comm.Kind() == communicator.WinRMKind
		if !windows {
			image, err := r.looks.Image(ctx)
			if err != nil {
				return err
			}
			windows = isWindowsImage(image)
		}
		if windows {
			options.TemporaryKeyPairType = "rsa"
		}
	}
	if options.TemporaryKeyPairType == "" {
		options.TemporaryKeyPairType = "ed25519"
	}
	private, public, err := options.NewKey()
	if err != nil {
		return fmt.Errorf("make the temporary key: %w", err)
	}
	tags, err := r.tags(ctx, l.Name)
	if err != nil {
		return err
	}
	_, err = r.create(ctx, l, func(ctx context.Context) (string, error) {
		out, err := r.session.EC2("").ImportKeyPair(ctx, &ec2.ImportKeyPairInput{
			KeyName: &l.Name, PublicKeyMaterial: []byte(public), TagSpecifications: tagged(types.ResourceTypeKeyPair, tags),
		})
		if err == nil {
			return aws.ToString(out.KeyPairId), nil
		}
		if awscloud.Code(err) == "InvalidKeyPair.Duplicate" {
			// The first try may have come through without its answer.
			if id, e := r.lost(ctx, l, findKeys(r.session.EC2(""))); e == nil {
				return id, nil
			}
			return "", fmt.Errorf("there is a key pair %q already: leave temporary_key_pair_name out: %w", l.Name, err)
		}
		return "", err
	})
	if err != nil {
		return fmt.Errorf("import the temporary key pair: %w", err)
	}
	r.key.private, r.key.public = private, public
	return nil
}

func findKeys(c *ec2.Client) finder {
	return func(ctx context.Context, l builders.Lease) ([]string, error) {
		out, err := c.DescribeKeyPairs(ctx, &ec2.DescribeKeyPairsInput{Filters: leaseFilter(l)})
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, k := range out.KeyPairs {
			ids = append(ids, aws.ToString(k.KeyPairId))
		}
		return ids, nil
	}
}

// newHostKey makes an SSH host key.
func newHostKey() (private, public string, err error) {
	p, public, err := (&communicator.SSH{TemporaryKeyPairType: "ed25519"}).NewKey()
	return string(p), public, err
}

// decryptPassword reads the password that EC2 gives for a Windows instance.
func decryptPassword(data string, key []byte) (string, error) {
	sealed, err := base64.StdEncoding.DecodeString(strings.TrimSpace(data))
	if err != nil {
		return "", fmt.Errorf("the password data of the instance: %w", err)
	}
	var private any
	if block, _ := pem.Decode(key); block != nil && block.Type == "RSA PRIVATE KEY" {
		private, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	} else {
		private, err = ssh.ParseRawPrivateKey(key)
	}
	if err != nil {
		return "", fmt.Errorf("the key for the password of the instance: %w", err)
	}
	rsaKey, ok := private.(*rsa.PrivateKey)
	if !ok {
		return "", errors.New("the password of the instance is encrypted for an RSA key, and the key pair's is none")
	}
	//lint:ignore SA1019 EC2 encrypts by PKCS #1 v1.5 and by nothing else.
	plain, err := rsa.DecryptPKCS1v15(nil, rsaKey, sealed)
	if err != nil {
		return "", errors.New("the password of the instance cannot be decrypted: the key is not the key pair's")
	}
	return string(plain), nil
}
