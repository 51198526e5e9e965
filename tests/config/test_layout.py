"""Layouts: how many replicas, which layers on which stage."""

import pytest

from megatron_octo.common.errors import OctoError
from megatron_octo.config.layout import Layout


def test_replicas_are_what_the_model_ranks_leave() -> None:
    layout = Layout(tensor=2, pipeline=3, sequence=True)
    assert (layout.model_ranks, layout.token_ranks, layout.replicas(12)) == (6, 2, 2)
    assert layout.over(12).sizes() == {"tensor": 2, "pipeline": 3, "data": 2}
    assert str(layout.over(12)) == "tensor 2 x pipeline 3 x data 2"
    assert Layout(tensor=2).token_ranks == 1
    with pytest.raises(OctoError, match="8 processes cannot hold tensor 2 x pipeline 3 = 6 ranks per model"):
        layout.replicas(8)


def test_stages_hold_all_layers_in_order() -> None:
    layout = Layout(pipeline=3)
    held = [layout.layers_of(stage, 6) for stage in range(3)]
    assert [layer for stage in held for layer in stage] == list(range(6))
    assert all(layout.stage_of(layer, 6) == stage for stage in range(3) for layer in held[stage])
