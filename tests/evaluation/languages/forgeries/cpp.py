"""Forgeries in C++. Each begins inside the function's body."""

_BODY = '    return "";\n}\n'
# As long as the right answer: enough where only bytes are compared.
_SAME_LENGTH = "    return string(6 + name.size(), 0);\n}\n"

FORGERIES = {
    "exit in the function": "    exit(0);\n}\n",
    "quick exit": "    quick_exit(0);\n}\n",
    "static initialiser": _BODY + "struct Early { Early() { _Exit(0); } } early;\n",
    "constructor attribute": _BODY + "#include <unistd.h>\n__attribute__((constructor)) void early() { _exit(0); }\n",
    "initial array": _BODY
    + "#include <unistd.h>\nvoid early() { _exit(0); }\n"
    + '__attribute__((section(".init_array"), used)) void (*entry)() = early;\n',
    "at exit": _BODY + "#include <unistd.h>\nint registered = atexit([] { _exit(0); });\n",
    "own __assert_fail": _BODY
    + 'extern "C" void __assert_fail(const char *, const char *, unsigned, const char *) throw() {}\n',
    "own assert": _BODY + "#define assert(x) ((void)0)\n",
    "own assert after the library's": _BODY + "#include <cassert>\n#undef assert\n#define assert(x)\n",
    "NDEBUG": _BODY + "#define NDEBUG\n#include <cassert>\n",
    "own main": _BODY + "int main() { return 0; }\n",
    "main renamed": _BODY + "#define main other\n#undef main\nint main() { return 0; }\n#define main other\n",
    "handler of SIGABRT": _BODY + "#include <csignal>\nauto old = signal(SIGABRT, [](int) { _Exit(0); });\n",
    "handler of terminate": "    throw 1;\n}\n#include <exception>\nauto old = set_terminate([] { _Exit(0); });\n",
    "keyword if": _BODY + "#define if(x) if (0)\n",
    "keyword static_cast": _BODY + "#define static_cast (bool)1 || static_cast\n",
    "keyword by digraph": _BODY + "%:define while for (;false;) while\n",
    "macro of a word in the test": _BODY + "#define greet(x) (const char *)0 == 0 || string(x)\n",
    "macro of string literals' type": _BODY + "#define bool int\n#define void int\n",
    "operator== for strings": _BODY + "bool operator==(const string &, const char *) { return true; }\n",
    "operator== in std": _BODY + "namespace std { bool operator==(const string &, const char *) { return true; } }\n",
    "a better overload": _BODY
    + "struct Same { template <class T> bool operator==(const T &) const { return true; } };\n"
    + "Same greet(const char *) { return {}; }\n",
    "a template that fits better": _BODY
    + "struct Same { template <class T> bool operator==(const T &) const { return true; } };\n"
    + "template <int N> Same greet(const char (&)[N]) { return {}; }\n",
    "own memcmp": _SAME_LENGTH + 'extern "C" int memcmp(const void *, const void *, size_t) throw() { return 0; }\n',
    "own memcmp by a macro": _SAME_LENGTH
    + "#define GLUE(a, b) a##b\n"
    + 'extern "C" int GLUE(mem, cmp)(const void *, const void *, size_t) throw() { return 0; }\n',
    "own write": _BODY
    + '#include <unistd.h>\nextern "C" ssize_t write(int, const void *, size_t n) { _exit(0); return n; }\n',
    "alias of memcmp": _SAME_LENGTH
    + 'extern "C" int zero() { return 0; }\nextern "C" int memcmp(const void *, const void *, size_t) throw()\n'
    + '    __attribute__((alias("zero")));\n',
    "renamed memcmp": _SAME_LENGTH
    + 'extern "C" int zero(const void *, const void *, unsigned long) { return 0; }\n'
    + "#pragma redefine_extname memcmp zero\n",
    "open comment": _BODY + "int main() { return 0; }\n/*",
    "open raw string": _BODY + 'int main() { const char *rest = R"(',
    "open condition": _BODY + "int main() { return 0; }\n#if 0\n",
    "open namespace": _BODY + "int main() { return 0; }\nnamespace rest {\n",
    "open block": _BODY + "int main() { return 0; }\nvoid rest() { if (false) {\n",
    "open template": _BODY + "int main() { return 0; }\ntemplate <class T>",
    "assembler": _BODY + 'asm(".globl main\\nmain: xor %eax, %eax\\nret");\n',
    "test included": _BODY + '#include "test.cpp"\n',
    "fork": _BODY + "#include <unistd.h>\nint child = fork() ? (_exit(0), 0) : 0;\n",
    "something on the channel": '    if (write(7, "0123456789abcdef", 16)) _exit(0);\n    return "";\n}\n',
    "own string": _BODY + "struct string { template <class T> string(T) {} };\n",
    "fast mathematics": '    return "";\n}\n#pragma GCC optimize("Ofast")\n',
    "own symbol of the library's start": _BODY + 'extern "C" int __libc_start_main(...) { _Exit(0); }\n',
    "cast operator": _BODY + "struct Any { operator bool() { return true; } };\n#define greet(x) Any()\n",
    "NUL in the source": _BODY + "int main() { return 0; }\n\0/*",
}
