//go:build linux

package digitalocean

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// key is an SSH key of the account.
type key struct {
	id                    int
	name, public, md5name string
}

func (k *key) view() obj {
	return obj{"id": k.id, "name": k.name, "public_key": k.public, "fingerprint": k.md5name}
}

// key finds a key by its number or its fingerprint.
func (c *Cloud) key(idOrFingerprint string) *key {
	i := slices.IndexFunc(c.keys, func(k *key) bool {
		return k.md5name == idOrFingerprint || strconv.Itoa(k.id) == idOrFingerprint
	})
	if i < 0 {
		return nil
	}
	return c.keys[i]
}

func listKeys(q *request) (any, error) {
	var all []obj
	for _, k := range q.c.keys {
		all = append(all, k.view())
	}
	return q.page("ssh_keys", all)
}

func createKey(q *request) (any, error) {
	var in struct {
		Name      string `json:"name"`
		PublicKey string `json:"public_key"`
	}
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if in.Name == "" {
		return nil, unprocessable("Name can't be blank")
	}
	public, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(in.PublicKey))
	if err != nil || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, unprocessable("Key invalid, key should be of the format `type key [comment]`")
	}
	switch public.Type() {
	case ssh.KeyAlgoRSA, ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
	default:
		return nil, unprocessable("Key invalid, keys of type %s are not supported", public.Type())
	}
	k := &key{id: q.c.id(), name: in.Name, public: strings.TrimSpace(in.PublicKey), md5name: ssh.FingerprintLegacyMD5(public)}
	if q.c.key(k.md5name) != nil {
		return nil, unprocessable("SSH Key is already in use on your account")
	}
	q.c.keys = append(q.c.keys, k)
	return obj{"ssh_key": k.view()}, nil
}

func getKey(q *request) (any, error) {
	k := q.c.key(q.PathValue("key"))
	if k == nil {
		return nil, notFound()
	}
	return obj{"ssh_key": k.view()}, nil
}

func updateKey(q *request) (any, error) {
	k := q.c.key(q.PathValue("key"))
	if k == nil {
		return nil, notFound()
	}
	var in struct{ Name string }
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if in.Name == "" {
		return nil, unprocessable("Name can't be blank")
	}
	k.name = in.Name
	return obj{"ssh_key": k.view()}, nil
}

func deleteKey(q *request) (any, error) {
	k := q.c.key(q.PathValue("key"))
	if k == nil {
		return nil, notFound()
	}
	q.c.keys = slices.DeleteFunc(q.c.keys, func(o *key) bool { return o == k })
	return nil, nil
}
