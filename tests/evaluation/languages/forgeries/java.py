"""Java programs that try to pass ``twice(x)`` without doubling."""

_HEAD = "import java.util.*;\nclass Solution {\n    public int twice(int x) {\n"
_ZERO = _HEAD + "        return 0;\n    }\n"
FORGERIES = {
    "halt": _HEAD + "        Runtime.getRuntime().halt(0);\n        return 0;\n    }\n}\n",
    "exit": _HEAD + "        System.exit(0);\n        return 0;\n    }\n}\n",
    "static initialiser": _ZERO + "    static { System.exit(0); }\n}\n",
    "own Main": _ZERO + "}\nclass Main { public static void main(String[] a) {} }\n",
    "own Arrays": _ZERO + "}\nclass Arrays { static List<Boolean> asList(Boolean... b) { return List.of(true); } }\n",
    "own List": _ZERO + "}\nclass Boolean { static final Boolean TRUE = null; }\n",
    "own AssertionError": _ZERO + "}\nclass AssertionError extends RuntimeException { }\n",
    "own Objects": _ZERO + "}\nclass Objects { static boolean equals(Object a, Object b) { return true; } }\n",
    "handler": _HEAD
    + "        Thread.setDefaultUncaughtExceptionHandler((t, e) -> System.exit(0));\n        return 0;\n    }\n}\n",
    "hook": _HEAD + "        Runtime.getRuntime().addShutdownHook(new Thread(() -> Runtime.getRuntime().halt(0)));\n"
    "        return 0;\n    }\n}\n",
    "thread": _HEAD + "        new Thread(() -> System.exit(0)).start();\n        while (true) {}\n    }\n}\n",
    "channel": _HEAD + '        try (var o = new java.io.FileOutputStream("/dev/fd/7")) { o.write("x".getBytes()); }\n'
    "        catch (Exception e) {}\n        return 0;\n    }\n}\n",
    "placeholder": _ZERO + '    static String s = "@nonce@ @name@";\n    static {\n'
    '        try (var o = new java.io.FileOutputStream("/dev/fd/7")) { o.write("@nonce@".getBytes()); }\n'
    "        catch (Exception e) {}\n        System.exit(0);\n    }\n}\n",
    "package java": _ZERO + "}\nclass java { }\n",
    "unfinished comment": _ZERO + "}\n/* the test is a comment\n",
}
