"""Two evaluations beside each other: paired differences, and problems that changed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from megatron_octo.common.errors import OctoError
from megatron_octo.evaluation.results.pass_at_k import Interval, paired_difference
from megatron_octo.evaluation.results.summary import TaskScore


@dataclass(frozen=True)
class Difference:
    """Second minus first in pass@1, per cent; problems that only one of them solves, by number."""

    task: str
    problems: int
    change: Interval
    gained: tuple[int, ...]
    lost: tuple[int, ...]

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.change.low > 0 or self.change.high < 0


def compare(first: Mapping[str, TaskScore], second: Mapping[str, TaskScore]) -> list[Difference]:
    """Compare the tasks that both have, on the problems that both have.

    Raises:
        OctoError: they share nothing.
    """
    found = []
    for name in (name for name in first if name in second):
        one, two = first[name].counts, second[name].counts
        both = sorted(one.keys() & two.keys())
        if not both:
            continue
        rates = [np.array([counts[problem][1] / counts[problem][0] for problem in both]) for counts in (one, two)]
        change = paired_difference(rates[0], rates[1])
        gained = tuple(problem for problem in both if two[problem][1] and not one[problem][1])
        lost = tuple(problem for problem in both if one[problem][1] and not two[problem][1])
        found.append(Difference(name, len(both), change, gained, lost))
    if not found:
        raise OctoError("the two evaluations share no task", where="evaluate report")
    return found
