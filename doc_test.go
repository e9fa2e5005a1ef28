package rtm

import (
	"encoding/json"
	"go/ast"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// docs/credit-control.md names a scenario or a vector for each rule, and every
// scenario shows a rule.
func TestRulesAreShown(t *testing.T) {
	b, err := os.ReadFile("docs/credit-control.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "| --- | --- | --- | --- |\n")
	table, _, _ := strings.Cut(rest, "\n\n")
	shown := make(map[string]bool)
	for line := range strings.Lines(table) {
		columns := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(columns) != 4 {
			t.Errorf("%d columns: %s", len(columns), line)
			continue
		}
		found := false
		for i, pattern := range []string{"", "", "testdata/scenarios/%.txt", "testdata/vectors/%.json"} {
			for name := range strings.SplitSeq(columns[i], ",") {
				if name = strings.TrimSpace(name); pattern == "" || name == "" {
					continue
				}
				found = true
				file := strings.Replace(pattern, "%", name, 1)
				if shown[file] = true; !exists(file) {
					t.Errorf("there is no %s", file)
				}
			}
		}
		if !found {
			t.Errorf("nothing shows %s", strings.TrimSpace(columns[0]))
		}
	}
	files, err := filepath.Glob("testdata/scenarios/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d scenarios, %v", len(files), err)
	}
	for _, file := range files {
		if !shown[filepath.ToSlash(file)] {
			t.Errorf("no rule names %s", file)
		}
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
