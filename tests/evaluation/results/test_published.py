"""Tests of the published scores: the table's means are the figure's averages, or a value is left out."""

import pytest

from megatron_octo.evaluation.records import LANGUAGES
from megatron_octo.evaluation.results.published import LANGUAGE_SCORES, PUBLISHED, SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scores_of_languages_agree_with_their_mean(scenario: str) -> None:
    for model, scores in LANGUAGE_SCORES[scenario].items():
        known = [score for score in scores if score is not None]
        assert len(scores) == len(LANGUAGES)
        mean = PUBLISHED[model][SCENARIOS.index(scenario)]
        if len(known) == len(LANGUAGES):
            assert sum(known) / len(known) == pytest.approx(mean, abs=0.0501)
        else:
            missing = len(LANGUAGES) * mean - sum(known)
            assert len(known) == len(LANGUAGES) - 1 and 0 <= missing <= 100
