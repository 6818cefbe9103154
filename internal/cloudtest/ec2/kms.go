//go:build linux

package ec2

import (
	"slices"
	"strings"
)

// kmsKey is a key of KMS.
type kmsKey struct {
	id, arn, description string
	managed              bool   // by Amazon: alias/aws/ebs
	state                string // Enabled, Disabled, PendingDeletion
	spec                 string
	denied               bool // the caller may not use it
}

const defaultKeyAlias = "alias/aws/ebs"

func (c *Cloud) addDefaultKey(s *space) {
	k := s.newKMSKey("Default key that protects my EBS volumes when no other key is defined")
	k.managed = true
	s.kmsAliases[defaultKeyAlias] = k.id
}

func (s *space) newKMSKey(description string) *kmsKey {
	id := randomHex(8) + "-" + randomHex(4) + "-" + randomHex(4) + "-" + randomHex(4) + "-" + randomHex(12)
	k := &kmsKey{id: id, arn: "arn:aws:kms:" + s.region + ":" + s.account + ":key/" + id, description: description, state: "Enabled", spec: "SYMMETRIC_DEFAULT"}
	s.kmsKeys[id] = k
	return k
}

// AddKMSKey makes a key in the caller's account, with an alias ("alias/web") if
// that is not empty, and says its ARN. state is Enabled, Disabled,
// PendingDeletion, or AccessDenied for one that exists but may not be used.
func (c *Cloud) AddKMSKey(region, alias, state string) (arn string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.spaceOf(c.o.Account, region)
	if err != nil {
		return "", err
	}
	k := s.newKMSKey("")
	if alias != "" {
		s.kmsAliases[alias] = k.id
	}
	if k.state = state; state == "AccessDenied" {
		k.state, k.denied = "Enabled", true
	}
	return k.arn, nil
}

// kmsKeyOf finds a key by its id, ARN, alias or the ARN of that; "" is the default key.
func (k *call) kmsKeyOf(name string) *kmsKey {
	if name == "" {
		name = defaultKeyAlias
	}
	where := k.space
	if rest, ok := strings.CutPrefix(name, "arn:aws:kms:"); ok {
		parts := strings.SplitN(rest, ":", 3)
		if len(parts) != 3 || parts[0] != k.regionName {
			return nil
		}
		if where = k.spaces[parts[1]+"/"+parts[0]]; where == nil {
			return nil
		}
		name = strings.TrimPrefix(parts[2], "key/")
	}
	if id, ok := where.kmsAliases[name]; ok {
		name = id
	}
	return where.kmsKeys[name]
}

// keyARN is the full name of a key, or the name as it is if there is none.
func (k *call) keyARN(name string) string {
	if key := k.kmsKeyOf(name); key != nil {
		return key.arn
	}
	return name
}

// keyTrouble says why a key cannot be used to encrypt, or "".
func (k *call) keyTrouble(name string) string {
	key := k.kmsKeyOf(name)
	switch {
	case key == nil:
		return "Client.InvalidKMSKey.NotFound: Given key ID is not accessible: the KMS key '" + name + "' does not exist in " + k.regionName
	case key.denied:
		return "Client.InternalError: Given key ID is not accessible. You must have DescribeKey permissions on the default CMK."
	case key.state != "Enabled":
		return "Client.InvalidKMSKey.InvalidState: The KMS key provided is in an incorrect state: " + key.state
	}
	return ""
}

func (k *call) isDefaultKey(arn string) bool {
	key := k.kmsKeyOf(arn)
	return key != nil && key.managed
}

func kmsOperations() map[string]operation {
	return map[string]operation{"DescribeKey": op((*call).describeKey), "ListAliases": op((*call).listAliases)}
}

type keyRequest struct {
	KeyID string `json:"KeyId"`
}

type keyMetadata struct {
	KeyID       string `json:"KeyId"`
	Arn         string
	AccountID   string `json:"AWSAccountId"`
	Description string
	Enabled     bool
	KeyState    string
	KeyManager  string
	KeyUsage    string
	KeySpec     string
	Origin      string
	MultiRegion bool
}

type keyResponse struct{ KeyMetadata keyMetadata }

func (k *call) describeKey(in *keyRequest) (*keyResponse, error) {
	key := k.kmsKeyOf(in.KeyID)
	switch {
	case in.KeyID == "":
		return nil, fail("ValidationException", "1 validation error detected: Value null at 'keyId' failed to satisfy constraint: Member must not be null")
	case strings.HasPrefix(in.KeyID, "arn:aws:kms:") && !strings.HasPrefix(in.KeyID, "arn:aws:kms:"+k.regionName+":"):
		return nil, fail("NotFoundException", "Invalid arn %s", in.KeyID)
	case key == nil && strings.HasPrefix(in.KeyID, "alias/"):
		return nil, fail("NotFoundException", "Alias arn:aws:kms:%s:%s:%s is not found.", k.regionName, k.account, in.KeyID)
	case key == nil:
		return nil, fail("NotFoundException", "Key 'arn:aws:kms:%s:%s:key/%s' does not exist", k.regionName, k.account, in.KeyID)
	case key.denied:
		return nil, fail("AccessDeniedException", "User: %s is not authorized to perform: kms:DescribeKey on resource: %s", k.caller, key.arn)
	}
	m := keyMetadata{KeyID: key.id, Arn: key.arn, AccountID: k.account, Description: key.description, Enabled: key.state == "Enabled", KeyState: key.state, KeyManager: "CUSTOMER",
		KeyUsage: "ENCRYPT_DECRYPT", KeySpec: key.spec, Origin: "AWS_KMS"}
	if key.managed {
		m.KeyManager = "AWS"
	}
	return &keyResponse{m}, nil
}

type aliasItem struct {
	AliasName   string
	AliasArn    string
	TargetKeyID string `json:"TargetKeyId"`
}

type aliasesResponse struct{ Aliases []aliasItem }

func (k *call) listAliases(in *keyRequest) (*aliasesResponse, error) {
	out := &aliasesResponse{Aliases: []aliasItem{}}
	for _, a := range sortedKeys(k.kmsAliases) {
		id := k.kmsAliases[a]
		if in.KeyID == "" || slices.Contains([]string{id, k.kmsKeys[id].arn}, in.KeyID) {
			out.Aliases = append(out.Aliases, aliasItem{a, "arn:aws:kms:" + k.regionName + ":" + k.account + ":" + a, id})
		}
	}
	return out, nil
}

type keyIDResponse struct {
	Key string `xml:"kmsKeyId"`
}

func (k *call) getEbsDefaultKmsKeyID(*getEbsDefaultKmsKeyIdRequest) (*keyIDResponse, error) {
	if k.defaultKey == "" {
		return &keyIDResponse{defaultKeyAlias}, nil
	}
	return &keyIDResponse{k.keyARN(k.defaultKey)}, nil
}

func (k *call) modifyEbsDefaultKmsKeyID(in *modifyEbsDefaultKmsKeyIdRequest) (*keyIDResponse, error) {
	if k.kmsKeyOf(in.KmsKeyId) == nil {
		return nil, fail("InvalidParameterValue", "The specified KMS key '%s' does not exist", in.KmsKeyId)
	}
	if err := k.commit(); err != nil {
		return nil, err
	}
	k.defaultKey = in.KmsKeyId
	return &keyIDResponse{k.keyARN(in.KmsKeyId)}, nil
}

type encryptionResponse struct {
	On bool `xml:"ebsEncryptionByDefault"`
}

func (k *call) getEbsEncryptionByDefault(*getEbsEncryptionByDefaultRequest) (*encryptionResponse, error) {
	return &encryptionResponse{k.encryptDefault}, nil
}

func (k *call) enableEbsEncryptionByDefault(*enableEbsEncryptionByDefaultRequest) (*encryptionResponse, error) {
	if err := k.commit(); err != nil {
		return nil, err
	}
	k.encryptDefault = true
	return &encryptionResponse{true}, nil
}

func (k *call) disableEbsEncryptionByDefault(*disableEbsEncryptionByDefaultRequest) (*encryptionResponse, error) {
	if err := k.commit(); err != nil {
		return nil, err
	}
	k.encryptDefault = false
	return &encryptionResponse{}, nil
}
