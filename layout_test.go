package rtm

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The walls: what each room may import of this module. A change here is a
// decision about the floor plan.
var walls = map[string][]string{
	"diameter":        {},
	"diameter/gen":    {},
	"diameter/peer":   {"diameter"},
	"rating":          {},
	"charging":        {"rating"},
	"creditcontrol":   {"diameter", "charging", "rating"},
	"store":           {},
	"store/embed":     {"store"},
	"store/redis":     {"store"},
	"store/storetest": {"store"},
	"backup":          {"store"},
	"tenant":          {"rating", "store"},
	"":                {"charging", "rating", "tenant", "store"},
	"cdr":             {"charging", "store"},
	"api":             {"", "backup", "cdr", "charging", "rating", "tenant", "store"},
	"ctf":             {"diameter", "diameter/peer"},
	"replay":          {"diameter", "diameter/peer"},
	"front":           {"diameter", "diameter/peer"},
	"examples":        {},
	"rtmtest":         nil, // all but cmd
	"cmd/rtm":         nil, // all
}

// Rooms whose tests stay within the same walls, with these beside.
var testsMay = []string{"store/storetest", "store/embed", "store/redis", "examples", "rtmtest"}

// pure are the files in which nothing waits, draws or tells the time.
var pure = []string{"shard.go", "decide.go", "committed.go", "timers.go", "audit.go", "admission.go", "demand.go", "hint.go"}

// pureRooms hold nothing else.
var pureRooms = []string{"diameter", "creditcontrol", "charging", "rating"}

// sources parses every Go file of the module.
func sources(t *testing.T, each func(path string, set *token.FileSet, f *ast.File)) {
	t.Helper()
	set := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (path == "tools" || path == "bin" || path != "." && strings.HasPrefix(d.Name(), ".")) {
			return filepath.SkipDir
		}
		if strings.HasSuffix(path, ".go") {
			f, err := parser.ParseFile(set, path, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			each(filepath.ToSlash(path), set, f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func room(path string) string {
	if d := filepath.ToSlash(filepath.Dir(path)); d != "." {
		return d
	}
	return ""
}

func TestWalls(t *testing.T) {
	sources(t, func(path string, _ *token.FileSet, f *ast.File) {
		here := room(path)
		may, ok := walls[here]
		if !ok {
			t.Errorf("%s: there is no room %q in the floor plan", path, here)
			return
		}
		for _, imp := range f.Imports {
			name, _ := strconv.Unquote(imp.Path.Value)
			there, ours := strings.CutPrefix(name, "rtm")
			if !ours || there != "" && there[0] != '/' {
				continue
			}
			there = strings.TrimPrefix(there, "/")
			test := strings.HasSuffix(path, "_test.go")
			switch {
			case there == here && test, test && slices.Contains(testsMay, there):
			case strings.HasPrefix(there, "cmd"):
				t.Errorf("%s imports a command", path)
			case may != nil && !slices.Contains(may, there):
				t.Errorf("%s imports %q: %q may import %v", path, there, here, may)
			}
		}
	})
}

func TestTheLoopNeitherWaitsNorDraws(t *testing.T) {
	seen := 0
	sources(t, func(path string, set *token.FileSet, f *ast.File) {
		if strings.HasSuffix(path, "_test.go") || !slices.Contains(pure, path) && !slices.Contains(pureRooms, room(path)) {
			return
		}
		seen++
		for _, imp := range f.Imports {
			switch name, _ := strconv.Unquote(imp.Path.Value); name {
			case "math/rand", "math/rand/v2", "crypto/rand", "sync", "context", "net", "os", "log", "log/slog":
				t.Errorf("%s imports %s", path, name)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: a goroutine", set.Position(n.Pos()))
			case *ast.SelectStmt:
				t.Errorf("%s: a select", set.Position(n.Pos()))
			case *ast.ChanType:
				t.Errorf("%s: a channel", set.Position(n.Pos()))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker"}, n.Sel.Name) {
					t.Errorf("%s: time.%s", set.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	})
	if seen < 20 {
		t.Errorf("only %d files were looked at", seen)
	}
}

// Goroutines have owners, in these rooms only.
func TestWhereGoroutinesAre(t *testing.T) {
	may := []string{"", "store/embed", "store/redis", "diameter/peer", "cdr", "ctf", "cmd/rtm"}
	sources(t, func(path string, set *token.FileSet, f *ast.File) {
		if strings.HasSuffix(path, "_test.go") || slices.Contains(may, room(path)) || room(path) == "store/storetest" || path == "rtmtest/relay.go" || path == "rtmtest/redis.go" {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if g, ok := n.(*ast.GoStmt); ok {
				t.Errorf("%s: a goroutine", set.Position(g.Pos()))
			}
			return true
		})
	})
}

// A package says what it is and what it does not know.
func TestPackageComments(t *testing.T) {
	said := make(map[string]string)
	sources(t, func(path string, _ *token.FileSet, f *ast.File) {
		if f.Doc != nil && !strings.HasSuffix(path, "_test.go") {
			said[room(path)] += f.Doc.Text()
		}
	})
	for r := range walls {
		text := strings.Join(strings.Fields(said[r]), " ")
		if text == "" {
			t.Errorf("package %q has no comment", r)
		}
		main := strings.HasPrefix(r, "cmd/") || r == "diameter/gen" || r == "examples"
		if !main && !strings.Contains(text, "not know") {
			t.Errorf("package %q does not say what it does not know", r)
		}
	}
}
