package winrm

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// The names of MS-WSMV and of the DMTF's WS-Management.
const (
	shellNS     = "http://schemas.microsoft.com/wbem/wsman/1/windows/shell"
	cmdResource = shellNS + "/cmd"
	transferNS  = "http://schemas.xmlsoap.org/ws/2004/09/transfer"

	actCreate  = transferNS + "/Create"
	actDelete  = transferNS + "/Delete"
	actCommand = shellNS + "/Command"
	actSend    = shellNS + "/Send"
	actReceive = shellNS + "/Receive"
	actSignal  = shellNS + "/Signal"

	signalTerminate = shellNS + "/signal/terminate"
	stateDone       = shellNS + "/CommandState/Done"
)

// What Windows says in its faults.
const (
	codeTimedOut      = 2150858793 // nothing happened within OperationTimeout
	codeShellNotFound = 2150858843
	codeAborted       = 995 // the operation's shell or service is being ended
)

// request is one message to the machine.
type request struct {
	action  string
	shell   string // its id; empty for Create
	options map[string]string
	body    string // XML
	timeout time.Duration
}

// maxReply is asked of the machine for its replies; replyLimit is what is read
// of one at most.
const (
	maxReply   = 512000
	replyLimit = 4 << 20
)

// xml is the whole envelope, and the id that the reply relates to.
func (r request) xml(url string) (text, id string) {
	id = "uuid:" + strings.ToUpper(uuid.NewString())
	var b strings.Builder
	b.WriteString(`<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"` +
		` xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing"` +
		` xmlns:w="http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd"` +
		` xmlns:p="http://schemas.microsoft.com/wbem/wsman/1/wsman.xsd"` +
		` xmlns:rsp="` + shellNS + `"><s:Header>`)
	b.WriteString(`<a:To>` + escape(url) + `</a:To>` +
		`<a:ReplyTo><a:Address s:mustUnderstand="true">http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous</a:Address></a:ReplyTo>`)
	fmt.Fprintf(&b, `<w:MaxEnvelopeSize s:mustUnderstand="true">%d</w:MaxEnvelopeSize>`, maxReply)
	b.WriteString(`<a:MessageID>` + id + `</a:MessageID>` +
		`<w:Locale s:mustUnderstand="false" xml:lang="en-US"/><p:DataLocale s:mustUnderstand="false" xml:lang="en-US"/>`)
	fmt.Fprintf(&b, `<w:OperationTimeout>PT%.3fS</w:OperationTimeout>`, r.timeout.Seconds())
	b.WriteString(`<w:ResourceURI s:mustUnderstand="true">` + cmdResource + `</w:ResourceURI>` +
		`<a:Action s:mustUnderstand="true">` + r.action + `</a:Action>`)
	if r.shell != "" {
		b.WriteString(`<w:SelectorSet><w:Selector Name="ShellId">` + escape(r.shell) + `</w:Selector></w:SelectorSet>`)
	}
	if len(r.options) > 0 {
		b.WriteString(`<w:OptionSet>`)
		for _, k := range slices.Sorted(maps.Keys(r.options)) {
			b.WriteString(`<w:Option Name="` + k + `">` + r.options[k] + `</w:Option>`)
		}
		b.WriteString(`</w:OptionSet>`)
	}
	b.WriteString(`</s:Header><s:Body>` + r.body + `</s:Body></s:Envelope>`)
	return b.String(), id
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a Buffer takes everything
	return b.String()
}

// expressible says whether XML can carry s unchanged.
func expressible(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0xfffe || r == 0xffff
	}) < 0
}

func createShell(env map[string]string, timeout time.Duration) request {
	var b strings.Builder
	b.WriteString(`<rsp:Shell>`)
	if len(env) > 0 {
		b.WriteString(`<rsp:Environment>`)
		for _, k := range slices.Sorted(maps.Keys(env)) {
			b.WriteString(`<rsp:Variable Name="` + escape(k) + `">` + escape(env[k]) + `</rsp:Variable>`)
		}
		b.WriteString(`</rsp:Environment>`)
	}
	b.WriteString(`<rsp:InputStreams>stdin</rsp:InputStreams><rsp:OutputStreams>stdout stderr</rsp:OutputStreams></rsp:Shell>`)
	return request{
		action: actCreate, timeout: timeout, body: b.String(),
		// The code page is that of UTF-8.
		options: map[string]string{"WINRS_NOPROFILE": "FALSE", "WINRS_CODEPAGE": "65001"},
	}
}

func runCommand(shell, line string, timeout time.Duration) request {
	return request{
		action: actCommand, shell: shell, timeout: timeout,
		options: map[string]string{"WINRS_CONSOLEMODE_STDIN": "FALSE", "WINRS_SKIP_CMD_SHELL": "FALSE"},
		body:    `<rsp:CommandLine><rsp:Command>` + escape(line) + `</rsp:Command></rsp:CommandLine>`,
	}
}

func sendInput(shell, command string, data []byte, end bool, timeout time.Duration) request {
	var b strings.Builder
	b.Grow(base64.StdEncoding.EncodedLen(len(data)) + 256)
	b.WriteString(`<rsp:Send><rsp:Stream Name="stdin" CommandId="` + escape(command) + `"`)
	if end {
		b.WriteString(` End="true"`)
	}
	b.WriteString(`>` + base64.StdEncoding.EncodeToString(data) + `</rsp:Stream></rsp:Send>`)
	return request{action: actSend, shell: shell, timeout: timeout, body: b.String()}
}

func receiveOutput(shell, command string, timeout time.Duration) request {
	return request{
		action: actReceive, shell: shell, timeout: timeout,
		options: map[string]string{"WSMAN_CMDSHELL_OPTION_KEEPALIVE": "TRUE"},
		body:    `<rsp:Receive><rsp:DesiredStream CommandId="` + escape(command) + `">stdout stderr</rsp:DesiredStream></rsp:Receive>`,
	}
}

func signal(shell, command string, timeout time.Duration) request {
	return request{
		action: actSignal, shell: shell, timeout: timeout,
		body: `<rsp:Signal CommandId="` + escape(command) + `"><rsp:Code>` + signalTerminate + `</rsp:Code></rsp:Signal>`,
	}
}

func deleteShell(shell string, timeout time.Duration) request {
	return request{action: actDelete, shell: shell, timeout: timeout}
}

// reply is what a machine may answer. Elements are matched by their local
// names: what comes is decoded, not trusted.
type reply struct {
	XMLName xml.Name `xml:"http://www.w3.org/2003/05/soap-envelope Envelope"`
	Header  struct {
		Action    string
		RelatesTo string
	}
	Body struct {
		Fault *struct {
			Code struct {
				Value   string
				Subcode struct{ Value string }
			}
			Reason struct{ Text string }
			Detail struct {
				WSManFault struct {
					Code    string `xml:",attr"`
					Message struct {
						Text  string `xml:",chardata"`
						Inner struct {
							Text       string `xml:",chardata"`
							WSManFault struct{ Message string }
						} `xml:"ProviderFault"`
					}
				}
			}
		}
		Shell           struct{ ShellId string }
		ResourceCreated struct {
			ReferenceParameters struct {
				SelectorSet struct {
					Selector []struct {
						Name  string `xml:",attr"`
						Value string `xml:",chardata"`
					}
				}
			}
		}
		CommandResponse struct{ CommandId string }
		ReceiveResponse *struct {
			Stream []struct {
				Name      string `xml:",attr"`
				CommandId string `xml:",attr"`
				Data      []byte `xml:",chardata"`
			}
			CommandState struct {
				State    string `xml:",attr"`
				ExitCode *string
			}
		}
	}
}

// fault is what a machine says when it will not do something.
type fault struct {
	code    uint64 // Windows' number; 0 when there is none
	subcode string // WS-Management's word, without prefix
	text    string
}

func (f *fault) Error() string {
	text := f.text
	if text == "" {
		text = "no reason given"
	}
	if f.code != 0 {
		return fmt.Sprintf("the machine refused: %s (WSMan fault %d)", text, f.code)
	}
	return fmt.Sprintf("the machine refused: %s (%s)", text, f.subcode)
}

// gone says whether a fault means that the shell is no more.
func (f *fault) gone() bool {
	return f.code == codeShellNotFound || f.code == codeAborted || f.subcode == "InvalidSelectors"
}

// tooLarge says whether a fault may mean that the message was.
func (f *fault) tooLarge() bool { return f.subcode == "EncodingLimit" || f.subcode == "QuotaLimit" }

// parseReply reads the reply to the message id. A fault is an error of type *fault.
func parseReply(b []byte, id string) (*reply, error) {
	var r reply
	if err := xml.NewDecoder(bytes.NewReader(b)).Decode(&r); err != nil {
		return nil, &notWinRM{fmt.Errorf("what came is no WS-Management reply: %w", err)}
	}
	if f := r.Body.Fault; f != nil {
		d := f.Detail.WSManFault
		out := &fault{text: oneLine(f.Reason.Text)}
		if detail := oneLine(d.Message.Text + " " + d.Message.Inner.Text + " " + d.Message.Inner.WSManFault.Message); detail != "" {
			out.text = detail
		}
		out.code, _ = strconv.ParseUint(d.Code, 10, 64) // 0 is "none"
		_, out.subcode, _ = strings.Cut(strings.TrimSpace(f.Code.Subcode.Value), ":")
		return nil, out
	}
	if to := strings.TrimSpace(r.Header.RelatesTo); !strings.EqualFold(to, id) {
		return nil, &damaged{fmt.Errorf("the reply is to the message %.80q, not to %s", to, id)}
	}
	return &r, nil
}

// oneLine makes text of the machine fit for an error: short, and without
// control characters.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 }), " ")
	if len(s) > 1000 {
		s = strings.ToValidUTF8(s[:1000], "") + "…"
	}
	return s
}

// shellID is the id in the reply to Create.
func (r *reply) shellID() (string, error) {
	id := r.Body.Shell.ShellId
	for _, s := range r.Body.ResourceCreated.ReferenceParameters.SelectorSet.Selector {
		if s.Name == "ShellId" {
			id = s.Value
		}
	}
	return checkID("shell", id)
}

func (r *reply) commandID() (string, error) {
	return checkID("command", r.Body.CommandResponse.CommandId)
}

func checkID(what, id string) (string, error) {
	id = strings.TrimSpace(id)
	if id == "" || len(id) > 200 {
		return "", &damaged{fmt.Errorf("the machine gave no usable id of the %s (%.80q)", what, id)}
	}
	return id, nil
}

// output is what one reply to Receive brings.
type output struct {
	chunks []chunk
	done   bool
	status int
}

type chunk struct {
	stderr bool
	data   []byte
}

func (r *reply) output() (*output, error) {
	resp := r.Body.ReceiveResponse
	if resp == nil {
		return nil, errors.New("the reply to Receive has no output in it")
	}
	var out output
	for _, s := range resp.Stream {
		data := make([]byte, base64.StdEncoding.DecodedLen(len(s.Data)))
		n, err := base64.StdEncoding.Decode(data, bytes.TrimSpace(s.Data))
		if err != nil {
			return nil, fmt.Errorf("the output is damaged: %w", err)
		}
		switch s.Name {
		case "stdout", "stderr":
			out.chunks = append(out.chunks, chunk{s.Name == "stderr", data[:n]})
		default:
			return nil, fmt.Errorf("the machine sent output of an unknown stream %.40q", s.Name)
		}
	}
	if resp.CommandState.State != stateDone {
		return &out, nil
	}
	out.done = true
	if resp.CommandState.ExitCode == nil {
		return nil, errors.New("the command ended, and the machine does not say with which exit status")
	}
	n, err := strconv.ParseInt(strings.TrimSpace(*resp.CommandState.ExitCode), 10, 64)
	if err != nil || n < -1<<31 || n >= 1<<32 {
		return nil, fmt.Errorf("the machine gave %.40q for an exit status", *resp.CommandState.ExitCode)
	}
	out.status = int(n)
	return &out, nil
}

// readAll is io.ReadAll with a limit.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = &damaged{fmt.Errorf("the reply is larger than %d bytes", limit)}
	}
	return b, err
}
