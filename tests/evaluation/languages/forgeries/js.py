"""JavaScript programs that try to pass ``double(x)`` (twice x) without doubling."""

_HEAD = "const double = (x) => {\n"
FORGERIES = {
    "exit at once": _HEAD + "  return 0;\n}\nprocess.exit(0);\n",
    "exit in the call": _HEAD + "  process.exit(0);\n}\n",
    "replaced assert": _HEAD + "  return 0;\n}\nconsole.assert = () => {};\n",
    "replaced console": _HEAD + "  return 0;\n}\nglobalThis.console = { assert() {} };\n",
    "object that converts": _HEAD + "  return { valueOf() { return 2 * x + 1; }, toString() { return '2'; } };\n}\n",
    "prototype": _HEAD + "  return 0;\n}\nObject.prototype.valueOf = function () { return 4; };\n",
    "JSON": _HEAD + '  return 0;\n}\nJSON.stringify = () => \'{"value": ["f", "x"]}\';\n',
    "array methods": _HEAD
    + "  return [];\n}\nArray.prototype.every = () => true;\nArray.prototype.join = () => '4';\n",
    "to JSON": _HEAD + "  return { toJSON() { return 4; } };\n}\n",
    "answers on all descriptors": _HEAD + "  const fs = require('fs');\n  for (let n = 0; n < 32; n++)\n"
    '    try { fs.writeSync(n, \'{"end": "passed"}\\n\'); } catch (_) {}\n  return 0;\n}\n',
    "a proxy": _HEAD + "  return new Proxy({}, { get: () => 4, ownKeys: () => ['a'] });\n}\n",
    "a getter without end": _HEAD + "  return { get a() { return this; } };\n}\n",
    "closes the function around it": "return { double: (x) => 0 };\n})(); process.exit(0); (function () {\n",
    "not a number": _HEAD + "  return NaN;\n}\n",
    "throws nothing": _HEAD + "  throw undefined;\n}\n",
}
