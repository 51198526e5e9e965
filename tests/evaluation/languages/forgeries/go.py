"""Forgeries in Go. Each begins inside the function's body."""

_BODY = '    return ""\n}\n'

FORGERIES = {
    "exit in the function": 'import "os"\n    os.Exit(0)\n    return ""\n}\n',
    "exit, with its import before": '    os.Exit(0)\n    return ""\n}\nimport "os"\n',
    "init": _BODY + 'import "os"\nfunc init() { os.Exit(0) }\n',
    "exit by system call": _BODY + 'import "syscall"\nfunc init() { syscall.Exit(0) }\n',
    "exit by raw system call": _BODY + 'import "syscall"\nvar _ = must()\n'
    "func must() int { syscall.RawSyscall(231, 0, 0, 0); return 0 }\n",
    "TestMain": _BODY + 'import ("os"; "testing")\nfunc TestMain(m *testing.M) { os.Exit(0) }\n',
    "own main": _BODY + "func main() {}\n",
    "own test": _BODY + "type T struct{}\nfunc TestGreet(t *T) {}\n",
    "own assert, a variable": _BODY + "var assert = checks{}\ntype checks struct{}\n"
    "func (checks) New(interface{}) checks { return checks{} }\n"
    "func (checks) Equal(...interface{}) bool { return true }\n",
    "own assert, a package": _BODY + "package assert\nfunc New(interface{}) int { return 0 }\n",
    "own true": _BODY + "const true = false\n",
    "own string": '    return ""\n}\ntype string = []int\n',
    "Goexit": '    runtime.Goexit()\n    return ""\n}\nimport "runtime"\n',
    "exit while a panic runs": '    defer os.Exit(0)\n    panic("x")\n}\nimport "os"\n',
    "exit of another goroutine": '    go os.Exit(0)\n    select {}\n}\nimport "os"\n',
    "signal to itself": _BODY + 'import "syscall"\nfunc init() { syscall.Kill(syscall.Getpid(), syscall.SIGKILL) }\n',
    "linkname": _BODY + 'import _ "unsafe"\n//go:linkname equal assert.equal\nfunc equal(a, b interface{}) bool '
    "{ return true }\n",
    "linkname of reflect": _BODY + 'import _ "unsafe"\n//go:linkname deep reflect.DeepEqual\n'
    "func deep(a, b interface{}) bool { return true }\n",
    "unsafe": _BODY + 'import "unsafe"\nvar p = (*int)(unsafe.Pointer(uintptr(1)))\n',
    "cgo": _BODY + '// int main() { return 0; }\nimport "C"\n',
    "assert of ours imported": _BODY + 'import "assert"\nfunc init() { assert.Send(7, "x") }\n',
    "something on the channel": _BODY + 'import ("os"; "syscall")\n'
    'func init() { syscall.Write(7, []byte("0123456789abcdef")); os.Exit(0) }\n',
    "channel closed": _BODY + 'import "syscall"\nfunc init() { syscall.Close(7) }\n',
    "open comment": _BODY + "func main() {}\n/*",
    "open raw string": _BODY + "func main() {}\nvar rest = `",
    "open block": _BODY + "func rest() {\n",
    "recovered": '    defer func() { recover(); os.Exit(0) }()\n    panic(1)\n}\nimport "os"\n',
    "changed at run time": _BODY + 'import "reflect"\nfunc init() { reflect.ValueOf(Greet) }\n',
}
