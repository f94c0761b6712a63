// Package packet encodes and decodes MQTT Control Packets of the versions 3.1, 3.1.1 and 5.0.
//
// It knows bytes and nothing else: no topics tree, no session, no network. What a packet may hold is decided here
// (MQTT 5.0 sections 2 and 3, MQTT 3.1.1 sections 2 and 3); what it means is decided by realtime/conn and realtime/broker.
package packet

// Version is the Protocol Level of CONNECT: 3 for MQTT 3.1, 4 for 3.1.1, 5 for 5.0.
type Version byte

// The protocol versions that the codec speaks.
const (
	V31  Version = 3
	V311 Version = 4
	V5   Version = 5
)

// Type is the MQTT Control Packet type, the high four bits of the fixed header.
type Type byte

// The Control Packet types (MQTT 5.0 table 2-1).
const (
	TypeConnect     Type = 1
	TypeConnack     Type = 2
	TypePublish     Type = 3
	TypePuback      Type = 4
	TypePubrec      Type = 5
	TypePubrel      Type = 6
	TypePubcomp     Type = 7
	TypeSubscribe   Type = 8
	TypeSuback      Type = 9
	TypeUnsubscribe Type = 10
	TypeUnsuback    Type = 11
	TypePingreq     Type = 12
	TypePingresp    Type = 13
	TypeDisconnect  Type = 14
	TypeAuth        Type = 15
)

// Packet is one MQTT Control Packet: a pointer to Connect, Connack, Publish, Ack, Subscribe, Suback, Unsubscribe,
// Unsuback, Ping, Disconnect or Auth.
type Packet interface {
	// Type returns the Control Packet type.
	Type() Type
	// Append appends the packet as version v sends it and returns the longer slice. Parts that v does not have
	// (properties and reason codes before 5.0) are left out.
	Append(dst []byte, v Version) []byte
}
