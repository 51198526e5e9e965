"""Commands that measure, kill or attack the product, each started as ``python -m benchmarks.NAME``.

Parts that several of them share live in ``support``, random attacks in ``campaigns``; the library imports none of them.
"""
