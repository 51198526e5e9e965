"""Project metadata is in pyproject.toml; this file serves tools that still call setup.py."""

import sys

if sys.version_info < (3, 12):
    sys.exit("error: megatron_octo needs Python 3.12 or newer, this is " + sys.version.split()[0])

from setuptools import setup

setup()
