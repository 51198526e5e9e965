"""Runs in the sandbox of the tests: runs one test after another; each call of the solution is asked for."""

import builtins
import json
import os
import random
import sys
import traceback

sys.path.insert(0, os.path.dirname(__file__))
from plain import line, pack, unpack

requests = os.fdopen(os.dup(0), "rb")
answers = os.dup(1)
nothing = os.open(os.devnull, os.O_RDWR)
for number in (0, 1):
    os.dup2(nothing, number)


class Gone(BaseException):
    """The solution ended."""


def send(message):
    """Write one line."""
    data = line(message)
    while data:
        data = data[os.write(answers, data) :]


def receive():
    """Read one line; the end of the input ends this process."""
    text = requests.readline()
    if not text:
        os._exit(0)
    return json.loads(text)


def put_back(old, new):
    """Give an argument the content that the solution left in it."""
    if type(old) is list and type(new) is list:
        old[:] = new
    elif (type(old) is dict and type(new) is dict) or (type(old) is set and type(new) is set):
        old.clear()
        old.update(new)


def function(name):
    """Return a function that is called in the solution's process."""

    def call(*arguments, **named):
        send(
            {
                "call": name,
                "args": [pack(item) for item in arguments],
                "kwargs": {key: pack(item) for key, item in named.items()},
            }
        )
        answer = receive()
        if "gone" in answer:
            raise Gone
        if "raised" in answer:
            kind, text = (str(item) for item in answer["raised"])
            found = getattr(builtins, kind, None)
            plain = isinstance(found, type) and issubclass(found, Exception)
            raise (found(text) if plain and kind != "UnicodeDecodeError" else RuntimeError(f"{kind}: {text}"))
        for old, new in zip(arguments, answer["args"]):
            put_back(old, unpack(new))
        return unpack(answer["value"])

    return call


def run(job):
    """Run one test; returns how it ended."""
    space = {"__name__": "test"}
    random.seed(0)
    try:
        exec(job["head"], space)
        space[job["entry"]] = function(job["entry"])
        exec(compile(job["test"], "test.py", "exec"), space)
    except Gone:
        return {"end": "gone"}
    except AssertionError as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        row = job["test"].splitlines()
        text = row[where.lineno - 1].strip() if where.filename == "test.py" and where.lineno <= len(row) else ""
        return {"end": "wrong", "text": (text or str(error))[:1500]}
    except BaseException as error:
        return {"end": "exception", "text": f"{type(error).__name__}: {str(error)[:1500]}"}
    return {"end": "passed"}


while True:
    send(run(receive()))
