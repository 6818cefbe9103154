// Package datachannel is the wire of AWS Session Manager: its binary messages,
// and the ordered, acknowledged stream of them that outlives the WebSocket it
// runs over. The client's end and the agent's differ only in the names of the
// messages they send.
package datachannel

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// The types of messages.
const (
	InputStream      = "input_stream_data"  // from the client
	OutputStream     = "output_stream_data" // from the agent
	Acknowledge      = "acknowledge"
	ChannelClosed    = "channel_closed"
	PausePublication = "pause_publication"
	StartPublication = "start_publication"
)

// The types of payloads in stream messages, as far as port sessions have them.
const (
	Data              uint32 = 1
	HandshakeRequest  uint32 = 5
	HandshakeResponse uint32 = 6
	HandshakeComplete uint32 = 7
	Flag              uint32 = 10
)

// The values of a Flag payload, a big-endian uint32.
const (
	DisconnectToPort   uint32 = 1 // the client's connection has ended
	TerminateSession   uint32 = 2
	ConnectToPortError uint32 = 3 // the agent could not connect to the port
)

// Message is one frame on the WebSocket.
type Message struct {
	Type     string
	Created  time.Time // to the millisecond
	Sequence int64     // of stream messages, from 0
	Flags    uint64    // bit 0: the first of its stream; bit 1: the last
	ID       uuid.UUID
	// PayloadType has meaning in stream messages.
	PayloadType uint32
	Payload     []byte
}

// The header, in the order of the fields: its length without the last field
// (4 bytes), the type (32, padded with blanks), the version (4), created (8, ms
// since 1970), the sequence number (8), flags (8), the id (16, its two halves
// swapped), the payload's SHA-256 (32), its type (4) and its length (4).
const (
	atType     = 4
	atVersion  = atType + 32
	atCreated  = atVersion + 4
	atSequence = atCreated + 8
	atFlags    = atSequence + 8
	atID       = atFlags + 8
	atDigest   = atID + 16
	atKind     = atDigest + sha256.Size
	atLength   = atKind + 4
	headerSize = atLength + 4

	version = 1
)

// Append appends the frame to b. A type longer than 32 bytes is cut.
func (m *Message) Append(b []byte) []byte {
	var h [headerSize]byte
	be := binary.BigEndian
	be.PutUint32(h[:], atLength)
	n := copy(h[atType:atVersion], m.Type)
	for i := atType + n; i < atVersion; i++ {
		h[i] = ' '
	}
	be.PutUint32(h[atVersion:], version)
	be.PutUint64(h[atCreated:], uint64(m.Created.UnixMilli()))
	be.PutUint64(h[atSequence:], uint64(m.Sequence))
	be.PutUint64(h[atFlags:], m.Flags)
	copy(h[atID:], m.ID[8:])
	copy(h[atID+8:], m.ID[:8])
	digest := sha256.Sum256(m.Payload)
	copy(h[atDigest:], digest[:])
	be.PutUint32(h[atKind:], m.PayloadType)
	be.PutUint32(h[atLength:], uint32(len(m.Payload)))
	return append(append(b, h[:]...), m.Payload...)
}

// Parse reads one frame. The payload is part of b.
func Parse(b []byte) (*Message, error) {
	if len(b) < headerSize {
		return nil, fmt.Errorf("a frame of %d bytes has no whole header, which has %d", len(b), headerSize)
	}
	be := binary.BigEndian
	// A later version may have a longer header. Its known fields stay where they are.
	header := uint64(be.Uint32(b))
	if header < atLength || header+4 > uint64(len(b)) {
		return nil, fmt.Errorf("the header says that it is %d bytes long, in a frame of %d", header, len(b))
	}
	m := &Message{
		Type:        string(bytes.Trim(b[atType:atVersion], " \x00")),
		Created:     time.UnixMilli(int64(be.Uint64(b[atCreated:]))),
		Sequence:    int64(be.Uint64(b[atSequence:])),
		Flags:       be.Uint64(b[atFlags:]),
		PayloadType: be.Uint32(b[atKind:]),
		Payload:     b[header+4:],
	}
	copy(m.ID[8:], b[atID:])
	copy(m.ID[:8], b[atID+8:])
	if m.Type == "" {
		return nil, errors.New("the frame has no message type")
	}
	if m.Type == PausePublication || m.Type == StartPublication {
		return m, nil // the service itself makes these, without a payload that counts
	}
	if n := be.Uint32(b[header:]); uint64(n) != uint64(len(m.Payload)) {
		return nil, fmt.Errorf("the header says that the payload is %d bytes long, and there are %d", n, len(m.Payload))
	}
	if digest := sha256.Sum256(m.Payload); len(m.Payload) > 0 && !bytes.Equal(digest[:], b[atDigest:atKind]) {
		return nil, errors.New("the payload is not what its digest says")
	}
	return m, nil
}

// acknowledgement is the payload of an Acknowledge message.
type acknowledgement struct {
	Type       string `json:"AcknowledgedMessageType"`
	ID         string `json:"AcknowledgedMessageId"`
	Sequence   int64  `json:"AcknowledgedMessageSequenceNumber"`
	Sequential bool   `json:"IsSequentialMessage"`
}

// Closed is the payload of a ChannelClosed message, as far as it matters.
type Closed struct {
	SessionID string `json:"SessionId"`
	Output    string `json:"Output"`
}

// Request is the payload of a HandshakeRequest.
type Request struct {
	AgentVersion string   `json:"AgentVersion"`
	Actions      []Action `json:"RequestedClientActions"`
}

// Action is what the agent asks of the client, or what became of it.
type Action struct {
	Type       string `json:"ActionType"` // SessionType, KMSEncryption
	Parameters any    `json:"ActionParameters,omitempty"`
	Status     int    `json:"ActionStatus,omitempty"` // see the constants
	Error      string `json:"Error,omitempty"`
}

// The values of Action.Status.
const (
	Success     = 1
	Failed      = 2
	Unsupported = 3
)

// Response is the payload of a HandshakeResponse.
type Response struct {
	ClientVersion string   `json:"ClientVersion"`
	Actions       []Action `json:"ProcessedClientActions"`
	Errors        []string `json:"Errors"`
}

// Complete is the payload of a HandshakeComplete.
type Complete struct {
	Took    time.Duration `json:"HandshakeTimeToComplete"`
	Message string        `json:"CustomerMessage"`
}

// Open is the text message that a WebSocket begins with.
type Open struct {
	SchemaVersion string `json:"MessageSchemaVersion"` // "1.0"
	RequestID     string `json:"RequestId"`
	Token         string `json:"TokenValue"`
	ClientID      string `json:"ClientId"`
	ClientVersion string `json:"ClientVersion"`
}
