package sqlstore

import (
	"math"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

// A backlog is read in rounds, the first of so many messages, each twice as long as the one before (chosen: a session
// with little waiting is measured in one read, one with a hundred thousand in ten).
const (
	backlogRoundMin = 1_000
	backlogRoundMax = 16_000
)

// Sized is a pending message's position and how large the message is.
type Sized struct {
	Position message.Position
	Bytes    int64
}

// Newest stands behind every position of a log.
var Newest = message.Position{Seq: math.MaxInt64, Part: math.MaxUint32} //nolint:gochecknoglobals // a constant

// Previous returns the position right before p, which is not the zero Position.
func Previous(p message.Position) message.Position {
	if p.Part == 0 {
		return message.Position{Seq: p.Seq - 1, Part: math.MaxUint32}
	}
	return message.Position{Seq: p.Seq, Part: p.Part - 1}
}

// MeasureBacklog reads a backlog newest first, until it is through or knows the cut. newest returns the newest n pending
// messages up to a position, newest first; count counts all up to one.
func MeasureBacklog(keepMessages int, keepBytes int64, newest func(upTo message.Position, n int) ([]Sized, error), count func(upTo message.Position) (int, error)) (b broker.Backlog, err error) {
	upTo := Newest
	for round := backlogRoundMin; ; round = min(2*round, backlogRoundMax) {
		// One more than may be kept shows the cut.
		n := min(round, max(keepMessages-b.Messages, 0)+1)
		read, err := newest(upTo, n)
		if err != nil {
			return broker.Backlog{}, err
		}
		for _, m := range read {
			if b.Messages >= keepMessages || b.Bytes+m.Bytes > keepBytes {
				b.CutAt = m.Position
				b.Dropped, err = count(m.Position)
				return b, err
			}
			b.Messages++
			b.Bytes += m.Bytes
			upTo = Previous(m.Position)
		}
		if len(read) < n {
			return b, nil
		}
	}
}

// Signed returns a position as the columns hold it.
func Signed(p message.Position) (seq, part int64) {
	return int64(min(p.Seq, math.MaxInt64)), int64(p.Part)
}
