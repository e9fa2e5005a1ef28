//go:build !race

package backup

// See race_on_test.go.
const (
	countEvery = 0 // as fast as they can
	fewer      = 1
)
