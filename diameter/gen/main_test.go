package main

import (
	"bytes"
	"os"
	"testing"
)

func TestTheTablesAreWhatGenWrites(t *testing.T) {
	in, err := os.Open("../testdata/avps.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	want, err := Generate(in)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../avps_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("avps_gen.go is not what testdata/avps.csv says: run make generate")
	}
}
