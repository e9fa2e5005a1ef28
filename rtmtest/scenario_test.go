package rtmtest

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the replies of scenarios anew")

// TestScenarios plays every conversation of testdata/scenarios and compares its
// replies, the indented lines.
func TestScenarios(t *testing.T) {
	Golden(t, "../testdata/scenarios/*.txt", 10, *update, playAll)
}

// playAll plays a scenario and returns it with the replies as they came.
func playAll(t *testing.T, text string) string {
	t.Helper()
	p := NewPlayer()
	var out strings.Builder
	for n, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "  "):
			continue
		case line == "" || strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
			continue
		}
		out.WriteString(line + "\n")
		replies, err := p.Play(line, func(name string) ([]byte, error) {
			return os.ReadFile(filepath.Join("..", "testdata", "scenarios", name))
		})
		if err != nil {
			t.Fatalf("line %d: %v", n+1, err)
		}
		for _, r := range replies {
			out.WriteString("  " + r + "\n")
		}
	}
	if len(p.sim.failures) > 0 {
		t.Errorf("invariants: %v", p.sim.failures)
	}
	return out.String()
}
