"""Random attacks on the product that anybody can repeat: ``python -m benchmarks.campaigns NAME --seed N --count N``.

One module per campaign; what several of them share lives in ``attack`` and in ``benchmarks.support``.
"""
