package conn

import (
	"slices"

	"github.com/embercast/embercast/realtime/broker"
	"github.com/embercast/embercast/realtime/message"
)

// fifo is a queue of deliveries that gives its memory back when it is empty.
type fifo struct {
	items []broker.Delivery
	head  int
}

func (f *fifo) len() int { return len(f.items) - f.head }

// bytes sums up what is in it.
func (f *fifo) bytes() (n int64) {
	for i := f.head; i < len(f.items); i++ {
		n += sizeOf(&f.items[i])
	}
	return n
}

// keep drops what is not wanted.
func (f *fifo) keep(wanted func(*message.Message) bool) {
	rest := slices.DeleteFunc(f.items[f.head:], func(d broker.Delivery) bool { return !wanted(d.Message) })
	f.items = f.items[:f.head+len(rest)]
	if len(rest) == 0 {
		*f = fifo{}
	}
}

func (f *fifo) push(d broker.Delivery) {
	if f.head > 64 && f.head*2 > len(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	f.items = append(f.items, d)
}

func (f *fifo) pop() broker.Delivery {
	d := f.items[f.head]
	f.items[f.head] = broker.Delivery{}
	if f.head++; f.head == len(f.items) {
		f.head = 0
		if f.items = f.items[:0]; cap(f.items) > 64 {
			f.items = nil
		}
	}
	return d
}
