"""Kills of training and of preprocessing: each interrupted command ends as the undisturbed one."""

import random
from pathlib import Path

from benchmarks import preprocess_kills, resume_kills
from benchmarks.campaigns.attack import Campaign, Outcome


class Attacks(Campaign):
    """Rounds of ten interruptions, four in five of trainings."""

    count = 25

    def attack(self, generator: random.Random, folder: Path) -> Outcome:
        """Interrupt until there were ten."""
        seed = generator.randrange(1 << 30)
        kind = generator.choice(["training"] * 4 + ["preprocess"])
        try:
            if kind == "training":
                count = resume_kills.campaign(folder, kills=10, seed=seed, steps=40)["kills"]
            else:
                options = list(generator.choice(preprocess_kills.OPTIONS))
                count = preprocess_kills.campaign(folder, 10, seed, 20.0, options)
        except AssertionError as error:
            return Outcome(kind, "", str(error)[:1000])
        return Outcome(kind, f"{count // 10 * 10}+ kills")
