// Package assert holds what the tests of HumanEvalPack use of testify, and the way to tell the harness the end.
package assert

import (
	"bytes"
	"reflect"
	"syscall"
)

// TestingT is whatever a test is given.
type TestingT interface{}

// Assertions compares values; the first difference ends the program.
type Assertions struct{}

// New returns assertions.
func New(TestingT) *Assertions { return &Assertions{} }

// Equal compares bytes as bytes and everything else deeply.
func (*Assertions) Equal(expected, actual interface{}, _ ...interface{}) bool {
	if !equal(expected, actual) {
		Send(2, "assertion failed: Equal\n")
		Send(7, "wrong")
		for {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 1, 0, 0)
		}
	}
	return true
}

func equal(expected, actual interface{}) bool {
	if isFunction(expected) || isFunction(actual) {
		return false
	}
	first, isBytes := expected.([]byte)
	if !isBytes {
		return reflect.DeepEqual(expected, actual)
	}
	second, isBytes := actual.([]byte)
	if !isBytes {
		return false
	}
	if first == nil || second == nil {
		return first == nil && second == nil
	}
	return bytes.Equal(first, second)
}

func isFunction(value interface{}) bool {
	return value != nil && reflect.TypeOf(value).Kind() == reflect.Func
}

// Send writes a text to a descriptor.
func Send(to int, text string) {
	syscall.Write(to, []byte(text))
}
