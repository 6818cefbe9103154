//go:build linux

package ec2

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// parameter is one of SSM's parameter store.
type parameter struct {
	name, kind, dataType, description string
	values                            []string // one for each version
	changed                           time.Time
	tags                              map[string]string
	public                            bool
}

// Session is one of Session Manager: what a client has asked for, and the way
// to the instance.
type Session struct {
	ID, Token string
	// Region, Target and Document are as in StartSession: i-…, AWS-StartPortForwardingSession.
	Region, Target, Document string
	Parameters               map[string][]string
	// Dial connects to a port of the instance, past its security groups, as
	// the agent in it does.
	Dial func(ctx context.Context, port int) (net.Conn, error)
}

// Port is the port that a port forwarding session asks for; 0: none.
func (s Session) Port() int {
	if p := s.Parameters["portNumber"]; len(p) == 1 {
		if n, err := strconv.Atoi(p[0]); err == nil {
			return n
		}
	}
	return 0
}

type ssmSession struct {
	Session
	started time.Time
	ended   bool
	ctx     context.Context // ends with the session
	end     context.CancelFunc
}

// OnSession sets who plays the agent's side of sessions: f is asked for each
// connection to a session's StreamUrl, and its handler gets the WebSocket
// request, whose context ends with the session. The handler checks the token.
// Without it, StartSession says that the target is not connected.
func (c *Cloud) OnSession(f func(Session) http.Handler) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = f
}

func (c *Cloud) serveSession(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimPrefix(r.URL.Path, sessionPath)
	c.mu.Lock()
	var found *ssmSession
	for _, s := range c.spaces {
		if have := s.sessions[id]; have != nil && !have.ended {
			found = have
		}
	}
	handler := c.session
	var s Session
	if found != nil {
		s = found.Session
	}
	c.mu.Unlock()
	if found == nil || handler == nil {
		http.Error(w, "no such session", http.StatusNotFound)
		return
	}
	handler(s).ServeHTTP(w, r.WithContext(found.ctx))
}

func ssmOperations() map[string]operation {
	return map[string]operation{
		"GetParameter": op((*call).getParameter), "GetParameters": op((*call).getParameters), "PutParameter": op((*call).putParameter), "DeleteParameter": op((*call).deleteParameter),
		"StartSession": op((*call).startSession), "ResumeSession": op((*call).resumeSession), "TerminateSession": op((*call).terminateSession),
		"DescribeInstanceInformation": op((*call).describeInstanceInformation),
	}
}

// publicParameters name the newest base images, as Amazon's public parameters do.
var publicParameter = regexp.MustCompile(`^/aws/service/(?:ingot|debian|ami-amazon-linux-latest|canonical)/(.+)$`)

func (k *call) parameterNamed(name string) (*parameter, int, error) {
	full := name
	if rest, ok := strings.CutPrefix(name, "arn:aws:ssm:"+k.regionName+":"+k.account+":parameter"); ok {
		full = rest
	}
	version := 0
	if i := strings.LastIndex(full, ":"); i > 0 {
		v, err := strconv.Atoi(full[i+1:])
		if err != nil {
			return nil, 0, fail("ParameterVersionNotFound", "Systems Manager could not find version %s of %s.", full[i+1:], full[:i])
		}
		full, version = full[:i], v
	}
	if m := publicParameter.FindStringSubmatch(full); m != nil {
		for _, sp := range k.here(k.regionName) {
			for _, i := range sp.images.all() {
				if i.first && i.name == m[1] {
					return &parameter{name: full, kind: "String", dataType: "aws:ec2:image", values: str(i.id), changed: i.created, public: true}, 1, nil
				}
			}
		}
	}
	p := k.parameters[full]
	if p == nil {
		return nil, 0, fail("ParameterNotFound", "Parameter %s not found.", name)
	}
	if version == 0 {
		version = len(p.values)
	}
	if version < 1 || version > len(p.values) {
		return nil, 0, fail("ParameterVersionNotFound", "Systems Manager could not find version %d of %s.", version, full)
	}
	return p, version, nil
}

type parameterItem struct {
	Name, Type, Value, ARN, DataType string
	Version                          int
	LastModifiedDate                 float64
}

func (k *call) parameterItem(p *parameter, version int, decrypt bool) parameterItem {
	i := parameterItem{Name: p.name, Type: p.kind, Value: p.values[version-1], DataType: p.dataType, Version: version, LastModifiedDate: float64(p.changed.UnixMilli()) / 1000,
		ARN: "arn:aws:ssm:" + k.regionName + ":" + k.account + ":parameter/" + strings.TrimPrefix(p.name, "/")}
	if p.public {
		i.ARN = "arn:aws:ssm:" + k.regionName + "::parameter" + p.name
	}
	if p.kind == "SecureString" && !decrypt {
		i.Value = "AQICAHh" + fmt.Sprintf("%x", len(i.Value)) + "encrypted"
	}
	return i
}

type getParameterRequest struct {
	Name           string
	WithDecryption bool
}

type getParameterResponse struct{ Parameter parameterItem }

func (k *call) getParameter(in *getParameterRequest) (*getParameterResponse, error) {
	p, v, err := k.parameterNamed(in.Name)
	if err != nil {
		return nil, err
	}
	return &getParameterResponse{k.parameterItem(p, v, in.WithDecryption)}, nil
}

type getParametersRequest struct {
	Names          []string
	WithDecryption bool
}

type getParametersResponse struct {
	Parameters        []parameterItem
	InvalidParameters []string
}

func (k *call) getParameters(in *getParametersRequest) (*getParametersResponse, error) {
	out := &getParametersResponse{[]parameterItem{}, []string{}}
	for _, n := range in.Names {
		p, v, err := k.parameterNamed(n)
		if err != nil {
			out.InvalidParameters = append(out.InvalidParameters, n)
			continue
		}
		out.Parameters = append(out.Parameters, k.parameterItem(p, v, in.WithDecryption))
	}
	return out, nil
}

type putParameterRequest struct {
	Name, Value, Type, DataType, Description, Tier string
	Overwrite                                      bool
	Tags                                           []tag
}

type putParameterResponse struct {
	Version int
	Tier    string
}

var parameterName = regexp.MustCompile(`^[a-zA-Z0-9_.\-/]+$`)

func (k *call) putParameter(in *putParameterRequest) (*putParameterResponse, error) {
	p := k.parameters[in.Name]
	switch {
	case !parameterName.MatchString(in.Name) || strings.HasPrefix(strings.TrimPrefix(strings.ToLower(in.Name), "/"), "aws") || strings.HasPrefix(strings.TrimPrefix(strings.ToLower(in.Name), "/"), "ssm"):
		return nil, fail("ValidationException", "Parameter name: can't be prefixed with \"aws\" or \"ssm\", and may have only letters, digits and .-_/")
	case in.Value == "":
		return nil, fail("ValidationException", "Value must not be empty")
	case p != nil && !in.Overwrite:
		return nil, fail("ParameterAlreadyExists", "The parameter already exists. To overwrite this value, set the overwrite option in the request to true.")
	case p == nil && in.Type == "":
		return nil, fail("ValidationException", "A parameter type is required when you create a parameter.")
	case len(in.Tags) > 0 && in.Overwrite:
		return nil, fail("ValidationException", "Invalid request: tags and overwrite can't be used together.")
	case in.Type != "" && in.Type != "String" && in.Type != "StringList" && in.Type != "SecureString":
		return nil, fail("UnsupportedParameterType", "The parameter type %s is not supported.", in.Type)
	}
	tags, err := checkTags(in.Tags)
	if err != nil {
		return nil, fail("ValidationException", "%s", err)
	}
	if in.DataType == "aws:ec2:image" {
		if _, ok := k.seenImage(in.Value); !ok {
			return nil, fail("ValidationException", "The image %s is not there or not the caller's", in.Value)
		}
	}
	if p == nil {
		p = &parameter{name: in.Name, kind: in.Type, dataType: "text", tags: tags}
		k.parameters[in.Name] = p
	}
	if in.DataType != "" {
		p.dataType = in.DataType
	}
	p.values = append(p.values, in.Value)
	p.description, p.changed = in.Description, k.now()
	return &putParameterResponse{len(p.values), "Standard"}, nil
}

type nameRequest struct{ Name string }

func (k *call) deleteParameter(in *nameRequest) (*none, error) {
	if k.parameters[in.Name] == nil {
		return nil, fail("ParameterNotFound", "")
	}
	delete(k.parameters, in.Name)
	return &none{}, nil
}

type startSessionRequest struct {
	Target, DocumentName, Reason string
	Parameters                   map[string][]string
}

type sessionResponse struct {
	SessionID  string `json:"SessionId"`
	TokenValue string
	StreamURL  string `json:"StreamUrl"`
}

func notConnected(target string) error {
	return fail("TargetNotConnected", "%s is not connected.", target)
}

// agentUp says whether the agent in an instance has registered.
func (k *call) agentUp(i *instance) bool {
	return k.session != nil && i.machine != nil && i.profile != nil && i.state(k.now()) == running && !k.now().Before(i.line.end().Add(k.real(k.o.Durations.SSMAgent)))
}

func (k *call) startSession(in *startSessionRequest) (*sessionResponse, error) {
	switch in.DocumentName {
	case "", "SSM-SessionManagerRunShell", "AWS-StartPortForwardingSession", "AWS-StartSSHSession":
	default:
		return nil, fail("InvalidDocument", "Document with name %s does not exist.", in.DocumentName)
	}
	i := k.instances.m[in.Target]
	if i == nil || !k.agentUp(i) {
		return nil, notConnected(in.Target)
	}
	s := &ssmSession{Session: Session{ID: "baker-" + randomHex(17), Region: k.regionName, Target: i.id, Document: in.DocumentName, Parameters: in.Parameters}, started: k.now()}
	if s.Document == "AWS-StartPortForwardingSession" && s.Port() == 0 {
		return nil, fail("InvalidParameters", "Parameter \"portNumber\" is not valid.")
	}
	c := k.Cloud
	s.Dial = func(ctx context.Context, port int) (net.Conn, error) {
		m := c.machineOf(i)
		if m == nil {
			return nil, fmt.Errorf("%s has no machine yet", i.id)
		}
		return m.Dial(ctx, port)
	}
	s.Token = randomHex(64)
	s.ctx, s.end = context.WithCancel(k.ctx)
	k.sessions[s.ID] = s
	return k.sessionResponse(s), nil
}

func (k *call) sessionResponse(s *ssmSession) *sessionResponse {
	return &sessionResponse{s.ID, s.Token, "ws" + strings.TrimPrefix(k.URL(), "http") + sessionPath + s.ID}
}

type sessionRequest struct {
	SessionID string `json:"SessionId"`
}

func (k *call) openSession(id string) (*ssmSession, error) {
	s := k.sessions[id]
	if s == nil || s.ended {
		return nil, fail("DoesNotExistException", "Session %s does not exist", id)
	}
	return s, nil
}

func (k *call) resumeSession(in *sessionRequest) (*sessionResponse, error) {
	s, err := k.openSession(in.SessionID)
	if err != nil {
		return nil, err
	}
	s.Token = randomHex(64)
	return k.sessionResponse(s), nil
}

func (k *call) terminateSession(in *sessionRequest) (*sessionRequest, error) {
	if s := k.sessions[in.SessionID]; s != nil {
		s.ended = true
		s.end()
	}
	return in, nil // what is not there is terminated
}

type informationRequest struct {
	Filters []struct {
		Key    string
		Values []string
	}
	MaxResults int
	NextToken  string
}

type informationItem struct {
	InstanceID   string `json:"InstanceId"`
	PingStatus   string
	AgentVersion string
	PlatformType string
}

type informationResponse struct{ InstanceInformationList []informationItem }

func (k *call) describeInstanceInformation(in *informationRequest) (*informationResponse, error) {
	out := &informationResponse{[]informationItem{}}
	for _, i := range k.instances.all() {
		ok := k.agentUp(i)
		for _, f := range in.Filters {
			if f.Key == "InstanceIds" {
				hit := false
				for _, v := range f.Values {
					hit = hit || v == i.id
				}
				ok = ok && hit
			}
		}
		if ok {
			out.InstanceInformationList = append(out.InstanceInformationList, informationItem{i.id, "Online", "3.3.1345.0", "Linux"})
		}
	}
	return out, nil
}

// Sessions are those that have been started and not ended.
func (c *Cloud) Sessions() []Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []Session
	for _, key := range sortedKeys(c.spaces) {
		for _, id := range sortedKeys(c.spaces[key].sessions) {
			if s := c.spaces[key].sessions[id]; !s.ended {
				list = append(list, s.Session)
			}
		}
	}
	return list
}
