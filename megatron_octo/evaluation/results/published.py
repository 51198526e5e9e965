"""Published scores of HumanEvalPack, to stand beside one's own.

Source: Muennighoff et al. 2023, "OctoPack: Instruction Tuning Code Large Language Models",
https://arxiv.org/abs/2308.07124, as in ``visuals/plots.ipynb`` of github.com/bigcode-project/octopack at e17a8f6.
Averages are those of figure 1. The notebook's table is an older state of the paper's: rows are taken from it only where
their mean is the average of the figure. Missing for that reason: OctoCoder's Java in explain and synthesize; GPT-4,
explain; WizardCoder, fix; BLOOMZ, explain and synthesize; StarCoder, explain. The table has no CodeGeeX2 and OctoGeeX.
"""

SOURCE = "OctoPack, arXiv 2308.07124: pass@1 in per cent, 20 samples at temperature 0.2, top-p 0.95"
# The paper's "Fix" shows the tests; its "Explain" is scored by synthesis from the explanation.
SCENARIOS = ("fixtests", "explainsynthesize", "synthesize")

# Means over six languages, in the order of SCENARIOS.
PUBLISHED: dict[str, tuple[float, float, float]] = {
    "GPT-4": (47.8, 52.1, 78.3),
    "WizardCoder": (25.7, 27.5, 40.1),
    "OctoCoder": (27.0, 24.5, 35.5),
    "OctoGeeX": (24.4, 22.9, 30.9),
    "CodeGeeX2": (12.1, 0.5, 28.1),
    "StarChat-beta": (11.2, 20.1, 26.3),
    "InstructCodeT5+": (1.8, 3.5, 17.1),
    "StarCoder": (13.4, 0.5, 27.6),
    "BLOOMZ": (12.5, 7.5, 11.5),
}

# By scenario and model: a column per language of records.LANGUAGES; None where the source is not certain.
LANGUAGE_SCORES: dict[str, dict[str, tuple[float | None, ...]]] = {
    "fixtests": {
        "GPT-4": (47.0, 48.2, 50.0, 50.6, 47.6, 43.3),
        "OctoCoder": (30.2, 28.4, 30.6, 30.2, 26.1, 16.5),
        "StarChat-beta": (18.1, 18.1, 1.3, 18.1, 8.2, 3.6),
        "StarCoder": (8.7, 15.7, 13.3, 20.1, 15.6, 6.7),
        "BLOOMZ": (16.6, 15.5, 15.2, 16.4, 5.7, 5.7),
        "InstructCodeT5+": (2.7, 1.2, 4.3, 2.1, 0.2, 0.5),
    },
    "explainsynthesize": {
        "WizardCoder": (32.5, 33.0, 27.4, 26.7, 28.2, 16.9),
        "OctoCoder": (35.1, 24.5, None, 21.1, 24.1, 14.8),
        "StarChat-beta": (25.4, 21.5, 24.5, 18.4, 17.6, 13.2),
        "InstructCodeT5+": (20.8, 0.0, 0.0, 0.0, 0.1, 0.0),
    },
    "synthesize": {
        "GPT-4": (86.6, 82.9, 81.7, 72.6, 78.7, 67.1),
        "WizardCoder": (57.3, 49.5, 36.1, 36.4, 40.9, 20.2),
        "OctoCoder": (46.2, 39.2, None, 30.4, 35.6, 23.4),
        "StarChat-beta": (33.5, 31.4, 26.7, 25.5, 26.6, 14.0),
        "StarCoder": (33.6, 30.8, 30.2, 17.6, 31.6, 21.8),
        "InstructCodeT5+": (37.0, 18.9, 17.4, 9.5, 19.8, 0.3),
    },
}
