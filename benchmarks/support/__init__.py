"""Parts that several benchmarks share: random data, training commands, kills, and the record of the machine.

No command starts here, and nothing is measured here.
"""
