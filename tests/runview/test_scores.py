"""Scores of saves as rows and curves."""

from megatron_octo.runfiles.scores import Score, ScoreLine, TaskScores
from megatron_octo.runview import charts, scores


def a_line(step: int, **values: float) -> ScoreLine:
    tasks = {name: TaskScores({"1": Score(value, value - 5, value + 5)}, 5, 10) for name, value in values.items()}
    return ScoreLine(step=step, attempt=1, kind="weights", time=1.0, seconds=1.0, tasks=tasks)


def test_rows_and_curves() -> None:
    lines = [a_line(10, a=10, b=20), a_line(20, a=30), ScoreLine(30, 1, "weights", 1.0, 1.0, {})]
    assert [(row.step, row.task, row.score.value) for row in scores.rows(lines)] == [
        (10, "a", 10),
        (10, "b", 20),
        (20, "a", 30),
    ]
    a, b = scores.series(lines)
    assert (a.name, a.x.tolist(), a.y.tolist()) == ("a", [10, 20], [10, 30])
    assert a.band is not None and [edge.tolist() for edge in a.band] == [[5, 25], [15, 35]]
    assert (b.name, b.x.tolist()) == ("b", [10])
    assert scores.rows([]) == scores.series([]) == []


def test_without_pass_at_1_there_is_no_curve() -> None:
    line = ScoreLine(10, 1, "weights", 1.0, 1.0, {"a": TaskScores({"10": Score(50.0, 40.0, 60.0)}, 5, 50)})
    assert scores.rows([line]) == []
    assert charts.line_chart(scores.series([line])) == ""


def test_the_chart_has_as_many_curves_as_colours() -> None:
    line = a_line(10, a=10, b=20, c=30, d=40, e=50)
    assert len(scores.rows([line])) == 5 and len(scores.series([line])) == 4
