//go:build linux

package ec2

import (
	"encoding/base64"
	"slices"
	"time"
)

// secret is one of Secrets Manager.
type secret struct {
	name, arn string
	versions  []secretVersion
}

type secretVersion struct {
	id     string
	text   string
	binary []byte
	stages []string
	born   time.Time
}

func secretsOperations() map[string]operation {
	return map[string]operation{"GetSecretValue": op((*call).getSecretValue), "CreateSecret": op((*call).createSecret), "PutSecretValue": op((*call).putSecretValue)}
}

type secretRequest struct {
	Name, SecretString, VersionStage string
	SecretID                         string `json:"SecretId"`
	VersionID                        string `json:"VersionId"`
	SecretBinary                     []byte
	ClientRequestToken               string
}

type secretResponse struct {
	ARN, Name, SecretString string   `json:",omitempty"`
	SecretBinary            string   `json:",omitempty"`
	VersionID               string   `json:"VersionId"`
	VersionStages           []string `json:",omitempty"`
	CreatedDate             float64  `json:",omitempty"`
}

func (k *call) secretOf(id string) (*secret, error) {
	for _, s := range k.secrets {
		if s.name == id || s.arn == id {
			return s, nil
		}
	}
	return nil, fail("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
}

func (k *call) getSecretValue(in *secretRequest) (*secretResponse, error) {
	s, err := k.secretOf(in.SecretID)
	if err != nil {
		return nil, err
	}
	stage := in.VersionStage
	if stage == "" && in.VersionID == "" {
		stage = "AWSCURRENT"
	}
	for _, v := range s.versions {
		if (in.VersionID == "" || v.id == in.VersionID) && (stage == "" || slices.Contains(v.stages, stage)) {
			return &secretResponse{ARN: s.arn, Name: s.name, SecretString: v.text, SecretBinary: base64.StdEncoding.EncodeToString(v.binary), VersionID: v.id, VersionStages: v.stages,
				CreatedDate: float64(v.born.UnixMilli()) / 1000}, nil
		}
	}
	return nil, fail("ResourceNotFoundException", "Secrets Manager can't find the specified secret value for staging label: %s", stage)
}

func (k *call) createSecret(in *secretRequest) (*secretResponse, error) {
	if in.Name == "" {
		return nil, fail("InvalidParameterException", "You must provide a name")
	}
	if k.secrets[in.Name] != nil {
		return nil, fail("ResourceExistsException", "The operation failed because the secret %s already exists.", in.Name)
	}
	s := &secret{name: in.Name, arn: "arn:aws:secretsmanager:" + k.regionName + ":" + k.account + ":secret:" + in.Name + "-" + randomHex(6)}
	k.secrets[in.Name] = s
	return k.putVersion(s, in), nil
}

func (k *call) putSecretValue(in *secretRequest) (*secretResponse, error) {
	s, err := k.secretOf(in.SecretID)
	if err != nil {
		return nil, err
	}
	return k.putVersion(s, in), nil
}

func (k *call) putVersion(s *secret, in *secretRequest) *secretResponse {
	for i := range s.versions {
		v := &s.versions[i]
		if slices.Contains(v.stages, "AWSCURRENT") {
			v.stages = []string{"AWSPREVIOUS"}
		} else {
			v.stages = nil
		}
	}
	id := in.ClientRequestToken
	if id == "" {
		id = randomHex(32)
	}
	s.versions = append(s.versions, secretVersion{id, in.SecretString, in.SecretBinary, []string{"AWSCURRENT"}, k.now()})
	return &secretResponse{ARN: s.arn, Name: s.name, VersionID: id}
}
