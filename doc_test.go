package rtm

import (
	"encoding/json"
	"go/ast"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ARCHITECTURE.md names files, functions and tests; all of them exist.
func TestArchitectureIsTrue(t *testing.T) {
	b, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if n := strings.Count(text, "\n"); n > 150 {
		t.Errorf("it has %d lines, 150 are the limit", n)
	}
	names := make(map[string]bool)
	sources(t, func(_ string, _ *token.FileSet, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok {
				names[id.Name] = true
			}
			return true
		})
		names[f.Name.Name] = true
	})
	for _, m := range regexp.MustCompile("`([A-Za-z_./*]+)`").FindAllStringSubmatch(text, -1) {
		name := m[1]
		if strings.Contains(name, "NAME") {
			continue
		}
		if strings.HasSuffix(name, ".go") {
			if _, err := os.Stat(name); err != nil {
				t.Errorf("there is no %s", name)
			}
			continue
		}
		parts := strings.Split(name, ".")
		if last := parts[len(parts)-1]; !names[last] {
			t.Errorf("nothing is called %s", name)
		}
	}
	for _, m := range regexp.MustCompile(`[a-z]+(?:/[a-z]+)*/[a-z]+\.go`).FindAllString(text, -1) {
		if _, err := os.Stat(m); err != nil {
			t.Errorf("there is no %s", m)
		}
	}
}

// What is linked may be given away with the product under Apache-2.0.
func TestLicencesOfLinkedModules(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-json=Module", "./cmd/rtm").Output()
	if err != nil {
		t.Fatal(err)
	}
	dirs := make(map[string]string)
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p struct{ Module *struct{ Path, Dir string } }
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if p.Module != nil && p.Module.Path != "rtm" {
			dirs[p.Module.Path] = p.Module.Dir
		}
	}
	if len(dirs) < 20 {
		t.Fatalf("only %d modules are linked?", len(dirs))
	}
	free := regexp.MustCompile(`(?i)Apache License|MIT License|Permission is hereby granted, free of charge|Redistribution and use in source and binary forms|Permission to use, copy, modify, and/or distribute`)
	for module, dir := range dirs {
		files, _ := filepath.Glob(filepath.Join(dir, "[LlCc][IiOo][CcPp][EeYy]*"))
		ok := false
		for _, f := range files {
			b, err := os.ReadFile(f)
			ok = ok || err == nil && free.Match(b)
		}
		if !ok {
			t.Errorf("%s: no licence that is known to fit", module)
		}
	}
}

// docs/credit-control.md names a scenario, a test or a vector for each rule; all of
// them exist, every scenario shows a rule, and its first line names the sections of
// rules that it shows.
func TestRulesAreShown(t *testing.T) {
	b, err := os.ReadFile("docs/credit-control.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "| --- | --- | --- | --- |\n")
	table, _, _ := strings.Cut(rest, "\n\n")
	tests := testNames(t)
	type row struct {
		rule     string
		sections []string
	}
	shown := make(map[string][]row) // by file
	for line := range strings.Lines(table) {
		columns := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(columns) != 4 {
			t.Errorf("%d columns: %s", len(columns), line)
			continue
		}
		rule, sections, found := strings.TrimSpace(columns[0]), sectionsOf(columns[1]), false
		if len(sections) == 0 {
			t.Errorf("%s: no section", rule)
		}
		for i, pattern := range []string{"testdata/scenarios/%.txt", "testdata/vectors/%.json"} {
			for name := range strings.SplitSeq(columns[2+i], ",") {
				if name = strings.TrimSpace(name); name == "" {
					continue
				}
				found = true
				file := strings.Replace(pattern, "%", name, 1)
				switch test, quoted := strings.CutPrefix(name, "`"); {
				case quoted && i == 0:
					if !tests[strings.TrimSuffix(test, "`")] {
						t.Errorf("%s: there is no test %s", rule, name)
					}
				case !exists(file):
					t.Errorf("%s: there is no %s", rule, file)
				default:
					shown[file] = append(shown[file], row{rule, sections})
				}
			}
		}
		if !found {
			t.Errorf("nothing shows %s", rule)
		}
	}
	files, err := filepath.Glob("testdata/scenarios/*.txt")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		file = filepath.ToSlash(file)
		first, _, _ := strings.Cut(string(b), "\n")
		head, _, ok := strings.Cut(strings.TrimPrefix(first, "# "), ": ")
		switch {
		case shown[file] == nil:
			t.Errorf("no rule names %s", file)
			continue
		case !ok || !strings.HasPrefix(first, "# "):
			t.Errorf("%s does not begin with the section that it shows: %s", file, first)
			continue
		}
		heads := sectionsOf(head)
		for _, r := range shown[file] {
			if !slices.ContainsFunc(r.sections, func(s string) bool { return slices.Contains(heads, s) }) {
				t.Errorf("%s begins with %s, and is to show %q (%s)", file, head, r.rule, strings.Join(r.sections, ", "))
			}
		}
		for _, section := range heads {
			if !slices.ContainsFunc(shown[file], func(r row) bool { return slices.Contains(r.sections, section) }) {
				t.Errorf("%s begins with %s, which no rule that names it has", file, section)
			}
		}
	}
}

// sectionsOf lists the sections of "RFC 8506 §8.20, §8.27, TS 32.274", each with its
// document. A rule of ours has a key, in quotes or not.
func sectionsOf(text string) (list []string) {
	document := ""
	for section := range strings.SplitSeq(text, ",") {
		section = strings.Trim(strings.TrimSpace(section), "`")
		if name, _, ok := strings.Cut(section, " §"); ok {
			document = name
		} else if strings.HasPrefix(section, "§") {
			section = document + " " + section
		}
		if section != "" {
			list = append(list, section)
		}
	}
	return list
}

// testNames are the names of all tests.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	sources(t, func(path string, _ *token.FileSet, f *ast.File) {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasSuffix(path, "_test.go") && strings.HasPrefix(fn.Name.Name, "Test") {
				names[fn.Name.Name] = true
			}
		}
	})
	return names
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
