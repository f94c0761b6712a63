package conn

import (
	"testing"
	"unsafe"
)

// BenchmarkConnBytes tells what the state of a connection takes at least.
func BenchmarkConnBytes(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		New(Config{}, nil, Meta{})
	}
	b.ReportMetric(float64(unsafe.Sizeof(Conn{})), "B/conn")
	b.ReportMetric(float64(unsafe.Sizeof(logQueue{})), "B/log")
}
