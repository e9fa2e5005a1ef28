// Package examples holds the files a new user begins with, so that the program
// can carry them.
package examples

import _ "embed"

// Lab is lab.yaml: a tenant, a plan and subscribers.
//
//go:embed lab.yaml
var Lab []byte
