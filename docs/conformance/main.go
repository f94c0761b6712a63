// Command conformance writes docs/conformance.md: every normative statement of MQTT 5.0 and 3.1.1, what the server does
// about it, the tests that prove it, and how they ended.
//
//	go run ./docs/conformance -write docs/conformance.md RESULTS…
//	go run ./docs/conformance -check docs/conformance.md RESULTS…
//
// RESULTS are what `go test -json` prints; .ci/test keeps those of a whole run in bin/tests.json, writes the page to
// compare from them, and fails when the committed one is another.
//
// What is known of a statement stands in statements.tsv beside this file: its number, what the server does in our own
// words, and, for a statement that no test of a server can prove, why not. Which test proves it is said by the test's name
// alone: a (sub)test called `…[MQTT5-3.3.1-6]…` proves that statement, `[~MQTT5-…]` a part of it, which does not count, and
// a comment proves nothing. So nothing can be claimed here that did not run and pass.
//
// It is an error, and the exit code 1, when a statement has neither a passing test nor a reason, when it has both, when a
// test that names it failed, and when a test names a statement that there is not. The page holds no dates, numbers of
// lines or times, so that it changes only with what it says.
package main

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("conformance", flag.ContinueOnError)
	root := flags.String("root", ".", "the module's folder")
	write := flags.String("write", "", "write the page to this file")
	check := flags.String("check", "", "compare the page with this file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("no results: run .ci/test first, or name what go test -json has printed")
	}
	statements, err := parseStatements(table)
	if err != nil {
		return err
	}
	tests, err := readResults(flags.Args())
	if err != nil {
		return err
	}
	module, err := findModule(*root)
	if err != nil {
		return err
	}
	problems := assign(statements, tests, module)
	page := render(statements)
	if *write != "" {
		problems = append(problems, os.WriteFile(*write, []byte(page), 0o644)) //nolint:gosec // a page for everybody
	}
	if *check != "" {
		problems = append(problems, compare(*check, page))
	}
	return errors.Join(problems...)
}

func compare(path, page string) error {
	committed, err := os.ReadFile(path) //nolint:gosec // named on the command line
	if err != nil {
		return err
	}
	if string(committed) == page {
		return nil
	}
	have, want := strings.Split(string(committed), "\n"), strings.Split(page, "\n")
	for i := range want {
		if i >= len(have) || have[i] != want[i] {
			return fmt.Errorf("%s is out of date (make conformance writes it anew); line %d should be\n%s", path, i+1, want[i])
		}
	}
	return fmt.Errorf("%s is out of date (make conformance writes it anew): it is too long", path)
}

// statement is a line of statements.tsv, and what the tests say of it.
type statement struct {
	name    string // MQTT5-3.3.1-6
	does    string // what the server does
	because string // why no test can prove it
	proofs  []proof
	failed  []string // tests that name it and failed
}

// version and number are the parts of a name.
func (s *statement) version() string { v, _, _ := strings.Cut(s.name, "-"); return v }
func (s *statement) number() string  { _, n, _ := strings.Cut(s.name, "-"); return n }

// section is the number without its last part.
func (s *statement) section() string {
	n := s.number()
	return n[:strings.LastIndexByte(n, '-')]
}

// proof is a test function with passing tests that name a statement.
type proof struct {
	function string
	file     string // from the module's folder
}

//go:embed statements.tsv
var table string

//go:embed disagreements.md
var disagreements string

var nameOf = regexp.MustCompile(`^MQTT(5|311)-[0-9]+(\.[0-9]+)*-[0-9]+$`)

func parseStatements(text string) ([]*statement, error) {
	var all []*statement
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(fields) < 2 || len(fields) > 3 || !nameOf.MatchString(fields[0]) || fields[1] == "" || fields[len(fields)-1] == "" {
			return nil, fmt.Errorf("statements.tsv: a line that is no statement: %q", line)
		}
		if seen[fields[0]] {
			return nil, fmt.Errorf("statements.tsv: %s stands there twice", fields[0])
		}
		seen[fields[0]] = true
		s := &statement{name: fields[0], does: fields[1]}
		if len(fields) == 3 {
			s.because = fields[2]
		}
		all = append(all, s)
	}
	return all, nil
}

// test is a test that has ended.
type test struct {
	pkg, name string
	passed    bool
}

// readResults reads the tests that passed or failed; a test that was skipped proves nothing.
func readResults(paths []string) ([]test, error) {
	var all []test
	for _, path := range paths {
		f, err := os.Open(path) //nolint:gosec // named on the command line
		if err != nil {
			return nil, err
		}
		tests, err := parseResults(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, tests...)
	}
	return all, nil
}

func parseResults(r io.Reader) ([]test, error) {
	var all []test
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var event struct{ Action, Package, Test string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			continue // the go command itself speaks between the events
		}
		if event.Test != "" && (event.Action == "pass" || event.Action == "fail") {
			all = append(all, test{event.Package, event.Test, event.Action == "pass"})
		}
	}
	return all, lines.Err()
}

// module is where test functions are found.
type module struct {
	path  string
	files map[string]string // "folder TestFunction" → file, both from the module's folder
}

var (
	modulePath   = regexp.MustCompile(`(?m)^module (\S+)$`)
	testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w*)\(`)
)

func findModule(root string) (*module, error) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod")) //nolint:gosec // named on the command line
	if err != nil {
		return nil, err
	}
	found := modulePath.FindSubmatch(text)
	if found == nil {
		return nil, errors.New("go.mod names no module")
	}
	m := &module{path: string(found[1]), files: map[string]string{}}
	return m, fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || len(d.Name()) > 1 && d.Name()[0] == '.'):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(path))) //nolint:gosec // a file of the module
		if err != nil {
			return err
		}
		for _, f := range testFunction.FindAllSubmatch(text, -1) {
			m.files[filepath.ToSlash(filepath.Dir(path))+" "+string(f[1])] = path
		}
		return nil
	})
}

// proofOf finds the function of a test.
func (m *module) proofOf(t test) (proof, error) {
	function, _, _ := strings.Cut(t.name, "/")
	file, ok := m.files[strings.TrimPrefix(t.pkg, m.path+"/")+" "+function]
	if !ok {
		return proof{}, fmt.Errorf("%s of %s is in the results and not in the source", function, t.pkg)
	}
	return proof{function, file}, nil
}

var named = regexp.MustCompile(`\[(MQTT[0-9]+-[0-9.]+-[0-9]+)\]`)

// assign gives the statements their tests, and returns what is wrong.
func assign(statements []*statement, tests []test, m *module) []error {
	byName := map[string]*statement{}
	for _, s := range statements {
		byName[s.name] = s
	}
	var problems []error
	for _, t := range tests {
		for _, name := range named.FindAllStringSubmatch(t.name, -1) {
			s := byName[name[1]]
			if s == nil {
				problems = append(problems, fmt.Errorf("%s: there is no such statement (%s of %s)", name[1], t.name, t.pkg))
				continue
			}
			if !t.passed {
				s.failed = append(s.failed, t.name)
				continue
			}
			p, err := m.proofOf(t)
			if err != nil {
				problems = append(problems, err)
			} else if !slices.Contains(s.proofs, p) {
				s.proofs = append(s.proofs, p)
			}
		}
	}
	for _, s := range statements {
		slices.SortFunc(s.proofs, func(a, b proof) int {
			return strings.Compare(a.file+" "+a.function, b.file+" "+b.function)
		})
		switch {
		case len(s.failed) > 0:
			problems = append(problems, fmt.Errorf("%s: failed: %s", s.name, strings.Join(s.failed, ", ")))
		case len(s.proofs) == 0 && s.because == "":
			problems = append(problems, fmt.Errorf("%s: no test that passed names it (%s)", s.name, s.does))
		case len(s.proofs) > 0 && s.because != "":
			problems = append(problems, fmt.Errorf("%s: %s proves it, and statements.tsv says that no test can", s.name, s.proofs[0].function))
		}
	}
	return problems
}
