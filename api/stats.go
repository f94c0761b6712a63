package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/embercast/embercast/realtime/broker"
)

// Stats is an app as of now, and its last hour.
type Stats struct {
	Connections   int           `json:"connections"`
	Subscriptions int           `json:"subscriptions"`
	Sessions      int           `json:"sessions"`
	Retained      int           `json:"retained"`
	RetainedBytes int64         `json:"retained_bytes"`
	Seq           uint64        `json:"seq" doc:"The last committed step of the app's log."`
	Window        Counters      `json:"window" doc:"What happened in the window, as far as its minutes are over."`
	Total         Counters      `json:"total" doc:"What happened since the server started."`
	Minutes       []MinuteStats `json:"minutes" nullable:"false" doc:"The minutes of the window, oldest first."`
}

// Counters count events.
type Counters struct {
	MessagesIn  int64 `json:"messages_in"`
	MessagesOut int64 `json:"messages_out"`
	BytesIn     int64 `json:"bytes_in" doc:"Of payload."`
	BytesOut    int64 `json:"bytes_out" doc:"Of payload."`
	Dropped     int64 `json:"dropped"`
	Denied      int64 `json:"denied"`
}

// MinuteStats is one minute.
type MinuteStats struct {
	At          time.Time `json:"at"`
	Connections int       `json:"connections"`
	Counters
}

func countersOf(c broker.Counters) Counters {
	return Counters{c.MessagesIn, c.MessagesOut, c.BytesIn, c.BytesOut, c.Dropped, c.Denied}
}

func (c *Counters) add(o Counters) {
	c.MessagesIn += o.MessagesIn
	c.MessagesOut += o.MessagesOut
	c.BytesIn += o.BytesIn
	c.BytesOut += o.BytesOut
	c.Dropped += o.Dropped
	c.Denied += o.Denied
}

type statsInput struct {
	AppPath
	Window int `query:"window" minimum:"60" maximum:"3600" default:"3600" doc:"Seconds to look back."`
}

type statsOutput struct{ Body Stats }

func (s *service) stats() {
	register(s, read, huma.Operation{
		OperationID: "get-stats", Method: http.MethodGet, Path: "/v1/apps/{app}/stats", Summary: "Figures of now and of the last hour", Tags: []string{"Operation"},
	}, func(ctx context.Context, in *statsInput) (*statsOutput, error) {
		st, err := s.cfg.Engine.Stats(broker.AppUID(calling(ctx).who.App.UID))
		if err != nil {
			return nil, err //nolint:wrapcheck // told by register
		}
		out := Stats{
			Connections: st.Connections, Subscriptions: st.Subscriptions, Sessions: st.Sessions, Retained: st.Retained,
			RetainedBytes: st.RetainedBytes, Seq: st.Head, Total: countersOf(st.Total), Minutes: []MinuteStats{},
		}
		since := s.cfg.Now().Add(-time.Duration(in.Window) * time.Second)
		for _, m := range st.Minutes {
			if m.At.Before(since) {
				continue
			}
			c := countersOf(m.Counters)
			out.Window.add(c)
			out.Minutes = append(out.Minutes, MinuteStats{m.At, m.Connections, c})
		}
		return &statsOutput{out}, nil
	})
}
