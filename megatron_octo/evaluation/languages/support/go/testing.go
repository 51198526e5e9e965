// Package testing holds the type that a test's function is given. Assertions do not use it.
package testing

// T is a test.
type T struct{}
