"""Python programs that try to pass ``double(x)`` (twice x) without doubling."""

_HEAD = "def double(x):\n"
FORGERIES = {
    "exit at once": _HEAD + "    return 0\nimport os\nos._exit(0)\n",
    "exit in the call": _HEAD + "    import os\n    os._exit(0)\n",
    "SystemExit": _HEAD + "    raise SystemExit(0)\n",
    "exit by signal handler": _HEAD + "    return 0\nimport sys, atexit\natexit.register(lambda: None)\nsys.exit(0)\n",
    "always equal": "class Equal(int):\n    def __eq__(self, other):\n        return True\n    __hash__ = int.__hash__\n"
    + _HEAD
    + "    return Equal(0)\n",
    "always equal, no int": "class Equal:\n    def __eq__(self, other):\n        return True\n"
    + _HEAD
    + "    return Equal()\n",
    "patched equality": "import builtins\nbuiltins.all = lambda *a: True\nbuiltins.AssertionError = ZeroDivisionError\n"
    + _HEAD
    + "    return 0\n",
    "own assertion error": "class AssertionError(BaseException):\n    pass\n" + _HEAD + "    raise AssertionError\n",
    "frames": _HEAD + "    import sys\n    frame = sys._getframe()\n    while frame:\n"
    "        frame.f_globals['candidate'] = lambda x: 2 * x\n        frame = frame.f_back\n    return 0\n",
    "garbage collector": _HEAD + "    import gc, types\n    for found in gc.get_objects():\n"
    "        if isinstance(found, types.FunctionType) and found.__name__ == 'check':\n"
    "            found.__code__ = (lambda c: None).__code__\n    return 0\n",
    "answers on the channel": _HEAD + "    import os\n    for n in range(3, 64):\n        try:\n"
    '            os.write(n, b\'{"end": "passed"}\\n\')\n        except OSError:\n            pass\n    return 0\n',
    "values on all descriptors": _HEAD + "    return 0\nimport os\nfor n in range(3, 64):\n    try:\n"
    '        os.write(n, b\'{"value": ["x", "y"], "args": []}\\n\' * 9)\n    except OSError:\n        pass\n',
    "replaced modules": "import sys\nsys.modules['plain'].pack = lambda *a: ['n']\n" + _HEAD + "    return 0\n",
    "replaced json": 'import json\njson.dumps = lambda *a, **k: \'{"value": ["i", "0x"], "args": []}\'\n'
    + _HEAD
    + "    return 0\n",
    "not a number": _HEAD + "    return float('nan')\n",
    "a huge number": _HEAD + "    return 1 << (1 << 28)\n",
    "a deep list": _HEAD + "    x = []\n    for _ in range(10 ** 5):\n        x = [x]\n    return x\n",
    "a list that holds itself": _HEAD + "    x = []\n    x.append(x)\n    return x\n",
    "changed arguments": _HEAD + "    return x\n",
    "reads the test": _HEAD + "    import glob\n    for name in glob.glob('/w/*') + glob.glob('/proc/*/cmdline'):\n"
    "        if 'candidate' + '(2)' in open(name, errors='replace').read():\n            return 2 * x\n    return 0\n",
}
