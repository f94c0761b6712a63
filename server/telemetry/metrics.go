package telemetry

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/packet"
)

// Metrics counts what the broker does. It implements broker.Observer; labels are from closed sets, never topics,
// clients or subjects.
type Metrics struct {
	registry       *prometheus.Registry
	connections    *prometheus.CounterVec
	disconnections *prometheus.CounterVec
	connected      prometheus.Gauge
	refused        *prometheus.CounterVec
	received       [3]prometheus.Counter
	delivered      [3]prometheus.Counter
	receivedBytes  prometheus.Counter
	deliveredBytes prometheus.Counter
	dropped        *prometheus.CounterVec
	denied         *prometheus.CounterVec
	answered       *prometheus.CounterVec
	commits        *prometheus.CounterVec
	commitSeconds  prometheus.Histogram
	commitMessages prometheus.Counter
	compacted      prometheus.Counter
	compactionLag  prometheus.Gauge
}

// NewMetrics registers everything, with the process's and Go's own figures.
func NewMetrics(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "embercast_" + name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	one := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "embercast_" + name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	m.connections = vec("connections_total", "Clients that were let in. A steep rise without a fall of embercast_connections is a reconnect loop: look at the reasons of disconnections.", "transport", "version")
	m.disconnections = vec("disconnections_total", "Connections that ended, by Reason Code. Keep Alive timeouts in numbers point at the network, Quota exceeded at clients that do not keep up.", "reason")
	m.refused = vec("refusals_total", "Connections and packets refused, by cause. auth_failed in numbers: check keys and clocks, or somebody guesses.", "cause")
	received := vec("messages_received_total", "PUBLISH packets taken from clients and REST.", "qos")
	delivered := vec("messages_delivered_total", "PUBLISH packets written to clients.", "qos")
	for i := range m.received {
		m.received[i], m.delivered[i] = received.WithLabelValues(strconv.Itoa(i)), delivered.WithLabelValues(strconv.Itoa(i))
	}
	m.receivedBytes = one("payload_received_bytes_total", "Payload bytes taken.")
	m.deliveredBytes = one("payload_delivered_bytes_total", "Payload bytes written to clients.")
	m.dropped = vec("messages_dropped_total", "Messages not delivered. queue_full: a client reads too slowly, or its queue limits are too small. refused: its topic or payload is not valid, or over a limit of the app.", "cause")
	m.denied = vec("denials_total", "Publishes and subscriptions that the rules denied. A rise after a change of rules: the change was too strict.", "action")
	m.answered = vec("http_answers_total", "HTTP requests answered, by status. 401 and 403 in numbers: somebody uses a wrong or old key; 429: a limit is met; 5xx: see the log.", "status")
	m.commits = vec("commits_total", "Group commits, by outcome. error: the database is away or full; see the log.", "outcome")
	m.commitMessages = one("commit_messages_total", "Messages committed.")
	m.compacted = one("compacted_messages_total", "Log entries that nobody needs any more and that were deleted.")
	m.compactionLag = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "embercast_compaction_lag_writes",
		Help: "Writes that the compactor has still to look at. Above 0 it was stopped on its way: see the log. When it only grows, the database does too.",
	})
	m.commitSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "embercast_commit_seconds", Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		Help: "How long a group commit took. It is what an acknowledgement waits for: when it grows, the disk or the database is slow.",
	})
	m.connected = prometheus.NewGauge(prometheus.GaugeOpts{Name: "embercast_connections", Help: "Clients connected now."})
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "embercast_build_info", Help: "Always 1; the label is the version that runs.", ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	m.registry.MustRegister(m.commitSeconds, m.compactionLag, m.connected, info, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Handler serves the metrics in Prometheus' text format.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Connected implements broker.Observer.
func (m *Metrics) Connected(transport string, v packet.Version) {
	m.connections.WithLabelValues(transport, strconv.Itoa(int(v))).Inc()
	m.connected.Inc()
}

// Disconnected implements broker.Observer.
func (m *Metrics) Disconnected(reason packet.ReasonCode) {
	m.disconnections.WithLabelValues(reason.String()).Inc()
	m.connected.Dec()
}

// Refused implements broker.Observer.
func (m *Metrics) Refused(cause string) { m.refused.WithLabelValues(cause).Inc() }

// Received implements broker.Observer.
func (m *Metrics) Received(qos byte, bytes int) {
	m.received[qos].Inc()
	m.receivedBytes.Add(float64(bytes))
}

// Delivered implements broker.Observer.
func (m *Metrics) Delivered(messages [3]int, bytes int64) {
	for qos, n := range messages {
		if n > 0 {
			m.delivered[qos].Add(float64(n))
		}
	}
	m.deliveredBytes.Add(float64(bytes))
}

// Dropped implements broker.Observer.
func (m *Metrics) Dropped(cause string, n int) { m.dropped.WithLabelValues(cause).Add(float64(n)) }

// Denied implements broker.Observer.
func (m *Metrics) Denied(action string) { m.denied.WithLabelValues(action).Inc() }

// Compacted implements broker.Observer.
func (m *Metrics) Compacted(deleted int, lag uint64) {
	m.compacted.Add(float64(deleted))
	m.compactionLag.Set(float64(lag))
}

// Answered counts an HTTP answer.
func (m *Metrics) Answered(status int) { m.answered.WithLabelValues(strconv.Itoa(status)).Inc() }

// Committed implements broker.Observer.
func (m *Metrics) Committed(messages int, took time.Duration, err error) {
	outcome := "ok"
	switch {
	case errors.Is(err, broker.ErrStoreUnavailable):
		outcome = "unavailable"
	case err != nil:
		outcome = "error"
	default:
		m.commitMessages.Add(float64(messages))
	}
	m.commits.WithLabelValues(outcome).Inc()
	m.commitSeconds.Observe(took.Seconds())
}
