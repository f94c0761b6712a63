// Command embercast is a self-hosted realtime backend: MQTT is its wire, JSON its data, SQL its memory.
package main

import (
	"fmt"
	"os"

	"github.com/alecthomas/kong"
)

func main() {
	os.Exit(run(os.Args[1:]))
}

// run parses the command line and runs the command; the exit code is 0, 1 for a failure, 2 for wrong usage.
func run(args []string) int {
	var c commands
	parser, err := kong.New(&c, kongOptions()...)
	if err != nil {
		panic(err) // the flags contradict each other: a mistake of ours
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "embercast: %v\nSee embercast --help.\n", err)
		return 2
	}
	if err := parsed.Run(&c.options); err != nil {
		fmt.Fprintln(os.Stderr, failure(err))
		return 1
	}
	return 0
}
