package packet

// DecodeError tells what is wrong with received bytes: the Reason Code to answer with and the statement broken.
type DecodeError struct {
	Reason    ReasonCode
	Statement string // such as "MQTT5-2.1.3-1"; empty where the standard has no number for it
	Text      string
}

// Error implements error.
func (e *DecodeError) Error() string {
	if e.Statement == "" {
		return e.Text
	}
	return e.Text + " [" + e.Statement + "]"
}

func malformed(statement, text string) *DecodeError {
	return &DecodeError{MalformedPacket, statement, text}
}

func protocolError(statement, text string) *DecodeError {
	return &DecodeError{ProtocolError, statement, text}
}
