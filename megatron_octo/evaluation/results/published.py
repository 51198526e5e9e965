"""Published scores of HumanEvalPack, to stand beside one's own."""

SOURCE = "OctoPack, arXiv 2308.07124, Figure 1: pass@1 in per cent, mean over six languages, 20 samples at 0.2"

# Model: fixing (with tests), explaining, synthesizing.
PUBLISHED = {
    "GPT-4": (47.8, 52.1, 78.3),
    "OctoCoder": (27.0, 24.5, 35.5),
    "WizardCoder": (25.7, 27.5, 40.1),
    "OctoGeeX": (24.4, 22.9, 30.9),
    "StarCoder": (13.4, 0.5, 27.6),
    "BLOOMZ": (12.5, 7.5, 11.5),
    "CodeGeeX2": (12.1, 0.5, 28.1),
    "StarChat-beta": (11.2, 20.1, 26.3),
    "InstructCodeT5+": (1.8, 3.5, 17.1),
}
SCENARIOS = ("fixtests", "explainsynthesize", "synthesize")
