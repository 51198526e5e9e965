"""Forgeries in Rust. Each begins inside the function's body."""

_BODY = "    String::new()\n}\n"
_SAME_LENGTH = '    "x".repeat(6 + name.len())\n}\n'

FORGERIES = {
    "exit in the function": "    std::process::exit(0)\n}\n",
    "exit in another thread": "    std::thread::spawn(|| std::process::exit(0)).join().unwrap()\n}\n",
    "hook of panics": "    std::panic::set_hook(Box::new(|_| std::process::exit(0)));\n    panic!()\n}\n",
    "exit in a drop": "    let _end = End;\n    panic!()\n}\n"
    "struct End;\nimpl Drop for End { fn drop(&mut self) { std::process::exit(0) } }\n",
    "own assert_eq": _BODY + "macro_rules! assert_eq { ($($t:tt)*) => { () } }\n"
    "macro_rules! assert { ($($t:tt)*) => { () } }\n",
    "own assert_eq by a macro": _BODY
    + "macro_rules! make { ($n:ident, $d:tt) => { macro_rules! $n { ($d($d t:tt)*) => { () } } } }\n"
    "make!(assert_eq, $); make!(assert, $);\n",
    "exported assert_eq": _BODY + "#[macro_export] macro_rules! assert_eq { ($($t:tt)*) => { () } }\n",
    "own vec": "    Default::default()\n}\nmacro_rules! vec { ($($t:tt)*) => { Vec::<String>::new() } }\n",
    "own module of tests": _BODY + "#[cfg(test)]\nmod tests { #[test] fn test_greet() {} }\n",
    "test switched off": _BODY + "#[cfg(any())]",
    "another function under test": _BODY + "#[cfg(not(test))]\nfn greet(name: &str) -> String { String::new() }\n",
    "own main": _BODY + "fn main() { std::process::exit(0) }\n",
    "no main": _BODY + '#![no_main]\n#[no_mangle] pub extern "C" fn main() -> i32 { 0 }\n',
    "own main symbol": _BODY + '#[no_mangle] pub extern "C" fn main() -> i32 { 0 }\n',
    "initial array": _BODY + '#[link_section = ".init_array"]\n#[used]\nstatic EARLY: extern "C" fn() = early;\n'
    'extern "C" fn early() { std::process::exit(0) }\n',
    "own memcmp": _SAME_LENGTH
    + '#[no_mangle]\npub unsafe extern "C" fn bcmp(_: *const u8, _: *const u8, _: usize) -> i32 '
    '{ 0 }\n#[no_mangle]\npub unsafe extern "C" fn memcmp(_: *const u8, _: *const u8, _: usize) -> i32 { 0 }\n',
    "own String": "    String\n}\n#[derive(Debug)]\nstruct String;\n"
    "impl String { fn from(_: &str) -> Self { String } }\n"
    "impl<T> PartialEq<T> for String { fn eq(&self, _: &T) -> bool { true } }\n",
    "own String by a macro": "    String\n}\nmacro_rules! make { ($n:ident) => { #[derive(Debug)] struct $n;\n"
    "impl $n { fn from(_: &str) -> Self { $n } }\n"
    "impl<T> PartialEq<T> for $n { fn eq(&self, _: &T) -> bool { true } } } }\nmake!(String);\n",
    "another name for its String": "    Same\n}\nuse Same as String;\n#[derive(Debug)]\nstruct Same;\n"
    "impl<T> PartialEq<T> for Same { fn eq(&self, _: &T) -> bool { true } }\n",
    "own to_string": _BODY + "trait Same { fn to_string(self) -> String; }\n"
    "impl Same for &str { fn to_string(self) -> String { String::new() } }\n",
    "another std": _BODY
    + "extern crate self as std;\n#[macro_export] macro_rules! assert_eq { ($($t:tt)*) => { () } }\n",
    "own module std": _BODY + "mod std { pub mod prelude {} }\n",
    "test included": '    include_str!("/w/test.rs").to_string()\n}\n',
    "test as a module": _BODY + '#[path = "/w/test.rs"]\nmod again;\n',
    "something on the channel": '    extern "C" { fn write(to: i32, bytes: *const u8, size: usize) -> isize; }\n'
    '    unsafe { write(7, "0123456789abcdef".as_ptr(), 16); }\n    std::process::exit(0)\n}\n',
    "assembler": '    unsafe { std::arch::asm!("mov edi, 0", "mov eax, 231", "syscall") }\n    String::new()\n}\n',
    "open comment": _BODY + "fn main() {}\n/*",
    "open raw string": _BODY + 'const REST: &str = r#"',
    "open macro": _BODY + "macro_rules! swallow { ($($t:tt)*) => {} }\nswallow! {\n",
    "open module": _BODY + "mod rest {\n",
}
