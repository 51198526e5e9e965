"""Difference of two runs on the same problems: paired, so that the problems' own difficulty cancels."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.results.intervals import Interval, bootstrap


@dataclass(frozen=True)
class Difference:
    """Second run minus first.

    Attributes:
        value: mean difference over the problems that both have; ``interval`` of it.
        problems: how many both have.
        better: problems at which the second run is better; ``worse``: at which it is worse.
        left_out: problems that only one of them has.
    """

    value: float
    interval: Interval
    problems: int
    better: int
    worse: int
    left_out: int

    @property
    def certain(self) -> bool:
        """Whether the interval excludes zero."""
        return self.interval.low > 0 or self.interval.high < 0


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference:
    """Compare two runs.

    Args:
        first: pass@k by problem.
        second: the same of the other run.

    Raises:
        OctoError: no problem is in both.
    """
    both = sorted(first.keys() & second.keys())
    if not both:
        raise OctoError("two runs without a common problem", hint="compare runs of the same tasks")
    values = np.array([second[number] - first[number] for number in both])
    return Difference(
        float(values.mean()),
        bootstrap(values),
        len(both),
        int((values > 0).sum()),
        int((values < 0).sum()),
        len(first.keys() ^ second.keys()),
    )
