//go:build linux

package ec2

import "golang.org/x/crypto/ssh"

// quotaCodes are those of Service Quotas that SetQuota's names stand for.
var quotaCodes = map[string]struct {
	name, text string
	value      float64
}{
	"L-1216C47A": {QuotaVCPUs, "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", 1152},
	"L-34B43A08": {QuotaVCPUs, "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", 1152},
	"L-0E3CBAB9": {QuotaImages, "AMIs", 50000},
	"L-665D4F44": {QuotaGroups, "VPC security groups per Region", 2500},
}

func quotaOperations() map[string]operation {
	return map[string]operation{"GetServiceQuota": op((*call).getServiceQuota), "GetAWSDefaultServiceQuota": op((*call).getServiceQuota)}
}

type quotaRequest struct{ ServiceCode, QuotaCode string }

type quotaItem struct {
	ServiceCode, QuotaCode, QuotaName string
	Value                             float64
}

type quotaResponse struct{ Quota quotaItem }

func (k *call) getServiceQuota(in *quotaRequest) (*quotaResponse, error) {
	q, ok := quotaCodes[in.QuotaCode]
	if !ok {
		return nil, fail("NoSuchResourceException", "The request failed because the specified service quota %s does not exist.", in.QuotaCode)
	}
	v := q.value
	if n, set := k.quotas[q.name]; set {
		v = float64(n)
	}
	return &quotaResponse{quotaItem{in.ServiceCode, in.QuotaCode, q.text, v}}, nil
}

// connectOperations are those of EC2 Instance Connect.
func connectOperations() map[string]operation {
	return map[string]operation{"SendSSHPublicKey": op((*call).sendSSHPublicKey)}
}

type sendKeyRequest struct {
	InstanceID       string `json:"InstanceId"`
	InstanceOSUser   string
	SSHPublicKey     string
	AvailabilityZone string
}

type sendKeyResponse struct {
	RequestID string `json:"RequestId"`
	Success   bool
}

// sendSSHPublicKey keeps the key for PushedKeys; the machine behind the instance
// does not ask for it, as an image without the Instance Connect agent does not.
func (k *call) sendSSHPublicKey(in *sendKeyRequest) (*sendKeyResponse, error) {
	i := k.instances.m[in.InstanceID]
	if i == nil {
		return nil, fail("EC2InstanceNotFoundException", "The instance %s was not found.", in.InstanceID)
	}
	if s := i.state(k.now()); s != running {
		return nil, fail("EC2InstanceStateInvalidException", "The instance %s is %s.", i.id, s)
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(in.SSHPublicKey)); err != nil {
		return nil, fail("InvalidArgsException", "The public key is not valid.")
	}
	i.pushed = append(i.pushed, in.SSHPublicKey)
	return &sendKeyResponse{k.requestID(), true}, nil
}

// PushedKeys are the public keys that EC2 Instance Connect has been given for an instance.
func (c *Cloud) PushedKeys(instance string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spaces {
		if i := s.instances.m[instance]; i != nil {
			return append([]string(nil), i.pushed...)
		}
	}
	return nil
}
