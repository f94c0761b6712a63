package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// write makes files in a folder of its own.
func write(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o750))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	return dir
}

// judge runs the generator on a table of two statements and a module of one test function.
func judge(t *testing.T, table, results string) (page string, problems []error) {
	t.Helper()
	dir := write(t, map[string]string{
		"go.mod":           "module example.com/m\n",
		"conn/a_test.go":   "package conn\n\nfunc TestA(t *testing.T) {\n",
		".git/b_test.go":   "package git\n\nfunc TestA(t *testing.T) {\n",
		"conn/no/ordinary": "func TestA(",
	})
	statements, err := parseStatements(table)
	require.NoError(t, err)
	tests, err := parseResults(strings.NewReader(results))
	require.NoError(t, err)
	m, err := findModule(dir)
	require.NoError(t, err)
	problems = assign(statements, tests, m)
	return render(statements), problems
}

const passed = `{"Action":"run","Package":"example.com/m/conn","Test":"TestA/x_[MQTT5-1.5.4-1]"}
not json, as the go command may print
{"Action":"pass","Package":"example.com/m/conn","Test":"TestA/x_[MQTT5-1.5.4-1]"}
{"Action":"pass","Package":"example.com/m/conn","Test":"TestA/y_[MQTT5-1.5.4-1]"}
{"Action":"pass","Package":"example.com/m/conn"}
`

func TestPage(t *testing.T) {
	t.Parallel()
	t.Run("a test shows the statement that its name holds, once for each function", func(t *testing.T) {
		t.Parallel()
		page, problems := judge(t, "MQTT5-1.5.4-1\tdoes it\n", passed)
		require.Empty(t, problems)
		require.Contains(t, page, "| 1.5.4-1 | does it | [TestA](../conn/a_test.go) | pass |\n")
		require.Contains(t, page, "| MQTT 5.0 | 1 | 1 | 0 |\n")
	})
	t.Run("a statement that no test can show says why", func(t *testing.T) {
		t.Parallel()
		page, problems := judge(t, "MQTT311-4.5.0-2\tbinds the client\tnothing to do\n", "")
		require.Empty(t, problems)
		require.Contains(t, page, "### MQTT 3.1.1: Operation\n")
		require.Contains(t, page, "| 4.5.0-2 | binds the client | nothing to do | – |\n")
	})
}

func TestProblems(t *testing.T) {
	t.Parallel()
	const one = "MQTT5-1.5.4-1\tdoes it\n"
	event := func(action, test string) string {
		return `{"Action":"` + action + `","Package":"example.com/m/conn","Test":"` + test + `"}` + "\n"
	}
	for name, c := range map[string]struct{ table, results, problem, cell string }{
		"a statement without a test":         {one, "", "no test that passed names it", "not shown"},
		"a statement whose test was skipped": {one, event("skip", "TestA/x_[MQTT5-1.5.4-1]"), "no test that passed names it", "not shown"},
		"a statement that is shown in part":  {one, event("pass", "TestA/x_[~MQTT5-1.5.4-1]"), "no test that passed names it", "not shown"},
		"a statement of the other version":   {one, event("pass", "TestA/x_[MQTT311-1.5.4-1]"), "there is no such statement", "not shown"},
		"a test that failed":                 {one, passed + event("fail", "TestA/z_[MQTT5-1.5.4-1]"), "failed: TestA/z", "fail"},
		"a reason beside a test":             {"MQTT5-1.5.4-1\tdoes it\tcannot be\n", passed, "says that no test can", "pass"},
		"a test that is not in the source":   {one, event("pass", "TestB/x_[MQTT5-1.5.4-1]"), "not in the source", "not shown"},
	} {
		t.Run(name+" is a problem", func(t *testing.T) {
			t.Parallel()
			page, problems := judge(t, c.table, c.results)
			require.NotEmpty(t, problems)
			require.ErrorContains(t, problems[0], c.problem)
			require.Contains(t, page, " | "+c.cell+" |\n")
		})
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	t.Run("holds every statement once, in the order of the standards", func(t *testing.T) {
		t.Parallel()
		statements, err := parseStatements(table)
		require.NoError(t, err)
		count := map[string]int{}
		chapter, seen := "", map[string]bool{}
		for _, s := range statements {
			count[s.version()]++
			if c := s.version() + chapterOf(s); c != chapter {
				require.False(t, seen[c], "%s stands apart from its chapter", s.name)
				chapter, seen[c] = c, true
			}
			require.NotEqual(t, "More", chapterOf(s), s.name)
		}
		// Appendix B of both standards: 251 and, with those that its index leaves out, 141.
		require.Equal(t, map[string]int{"MQTT5": 251, "MQTT311": 141}, count)
	})
	for name, text := range map[string]string{
		"a line without words":      "MQTT5-1.5.4-1\n",
		"a line with an empty word": "MQTT5-1.5.4-1\tx\t\n",
		"a number that is none":     "MQTT5-1.5.4\tx\n",
		"a version that is none":    "MQTT4-1.5.4-1\tx\n",
		"a statement twice":         "MQTT5-1.5.4-1\tx\nMQTT5-1.5.4-1\ty\n",
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			t.Parallel()
			_, err := parseStatements(text)
			require.ErrorContains(t, err, "statements.tsv")
		})
	}
}

func TestRun(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{
		"go.mod": "module example.com/m\n", "conn/a_test.go": "package conn\n\nfunc TestA(t *testing.T) {\n",
		"tests.json": passed, "old.md": "old\n",
	})
	results, page := filepath.Join(dir, "tests.json"), filepath.Join(dir, "new.md")
	err := run([]string{"-root", dir, "-write", page, results})
	require.ErrorContains(t, err, "MQTT5-1.5.5-1: no test that passed names it")
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Contains(t, string(text), "| 1.5.4-1 | ", "the page says so too")
	for file, want := range map[string]bool{"old.md": true, "new.md": false} {
		err := run([]string{"-root", dir, "-check", filepath.Join(dir, file), results})
		require.Equal(t, want, strings.Contains(err.Error(), "out of date"), file)
	}
	require.ErrorContains(t, run(nil), "no results")
	require.ErrorIs(t, run([]string{"-root", dir, "-write", page, filepath.Join(dir, "missing")}), os.ErrNotExist)
	after, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, string(text), string(after), "the page is left alone where there is nothing to write it from")
}
