"""Vandalised run directories: no command ends in a traceback, and no training goes on to other numbers."""

import json
import os
import random
import shutil
from pathlib import Path

from benchmarks.campaigns.attack import Campaign, Outcome, controls, damage_bytes, damage_json, ending
from benchmarks.campaigns.inputs import STEPS, make_data, make_run
from benchmarks.support import forks
from benchmarks.support.comparison import records, tensors

LAST = STEPS + 4
# Records, which may be lost or odd and never stop anything.
RECORDS = (
    "attempts",
    "state.json",
    "metrics.jsonl",
    "validation.jsonl",
    "samples.bin",
    "logs",
    "slurm.jsonl",
    "lock",
)
_ODD_NAMES = ("{} copy{}", "{}.bak{}", ".{}{}", "-{}{}", "{}\n{}", "{}\x1b[31m{}", "'{}\"{}")
_LEDGER = [
    {"event": "start", "job": "7", "restart": 0, "time": 1.0, "nodes": ["n1"], "saved": 0},
    {
        "event": "end",
        "job": "7",
        "restart": 0,
        "ended": 2.0,
        "reason": "hang",
        "detail": "x",
        "failed_nodes": ["n1"],
    },
]


def kind_of(path: Path) -> str:
    """Return the kind of a file of a run: its first folder or its name."""
    first = path.parts[0]
    return "checkpoints: manifest" if first == "checkpoints" and path.name == "manifest.json" else first


def vandalise(run: Path, generator: random.Random) -> tuple[str, str]:
    """Replace, damage or remove a file of a run, or put an odd one beside it; returns its kind and the way."""
    files = [path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file()]
    kinds = sorted({kind_of(path) for path in files})
    kind = generator.choice(kinds)
    relative = generator.choice([path for path in files if kind_of(path) == kind])
    path, way = (
        run / relative,
        generator.choice(["json"] * 6 + ["bytes"] * 4 + ["gone", "folder", "other", "loop", "fifo"]),
    )
    data = path.read_bytes()
    if way == "json" and path.suffix in (".json", ".jsonl"):
        way, data = damage_json(data, generator)
        path.write_bytes(data)
    elif way in ("json", "bytes"):
        way, data = damage_bytes(data, generator)
        path.write_bytes(data)
    elif way == "gone":
        path.unlink()
    elif way == "folder":
        path.unlink()
        path.mkdir()
    elif way == "loop":
        path.unlink()
        path.symlink_to(path.name)
    elif way == "fifo":
        path.unlink()
        os.mkfifo(path)
    else:
        odd = path.with_name(generator.choice(_ODD_NAMES).format(path.stem, path.suffix))
        odd.write_bytes(generator.choice([data, b"{}", b"\xff\xfe", b""]))
    return kind, f"{way} of {relative}"


class Attacks(Campaign):
    """One vandalised file, then inspect, report, status, list and a start of training."""

    count = 200

    def __init__(self, folder: Path) -> None:
        """Train a run, and let a copy go on undisturbed."""
        super().__init__(folder)
        forks.warm_up_run()
        make_data(folder)
        self.run = make_run(folder, "run")
        lines = "".join(json.dumps(line) + "\n" for line in _LEDGER)
        (self.run / "slurm.jsonl").write_text(lines)
        whole = Path(shutil.copytree(self.run, folder / "whole"))
        done = self._train(whole, folder / "whole.log")
        assert done.code == 0, done.text
        self.tensors, self.records = tensors(whole, LAST), records(whole)

    def _train(self, run: Path, log: Path) -> forks.Done:
        return forks.train([self.folder / "run.yaml", f"run_dir={run}", f"train.steps={LAST}"], log, 60)

    def attack(self, generator: random.Random, folder: Path) -> Outcome:
        """Vandalise a copy of the run beside a good one."""
        runs = folder / "runs"
        run = Path(shutil.copytree(self.run, runs / "odd"))
        shutil.copytree(self.run, runs / "good")
        kind, way = vandalise(run, generator)
        commands: list[tuple[str, list[str | Path]]] = [
            ("megatron_octo.inspect", [run]),
            ("megatron_octo.inspect", [run, "--report", folder / "report.html"]),
            ("megatron_octo.submit", ["status", run]),
            ("megatron_octo.submit", ["list", runs]),
        ]
        for module, words in commands:
            done = forks.command(module, words, folder / "log", limit=20, memory=4 << 30)
            fault = ending(done) or controls(done.text)
            if words[0] == "list" and not fault:
                fault = (
                    "" if done.code == 0 and "good" in done.text else f"the good run is not listed: {done.text[-200:]}"
                )
            if fault:
                name = f"{module.rpartition('.')[2]} {words[0] if isinstance(words[0], str) else len(words)}"
                return Outcome(kind, "", f"{way}: {name}: {fault}")
        done = self._train(run, folder / "log")
        if fault := ending(done) or controls(done.text):
            return Outcome(kind, "", f"{way}: train: {fault}")
        if done.code:
            told = done.text[done.text.rindex("error:") :][:200] if "error:" in done.text else ""
            stops = kind in RECORDS and not way.startswith(("folder", "loop", "fifo"))
            return Outcome(kind, "refused", f"{way}: a record stopped the start: {told}" if stops else "")
        return Outcome(kind, "equal", self._differences(run, way))

    def _differences(self, run: Path, way: str) -> str:
        found = tensors(run, LAST)
        wrong = [name for name in self.tensors if self.tensors[name] != found.get(name)]
        if wrong:
            return f"{way}: silent: {len(wrong)} tensors differ, {wrong[0]}"
        lines = records(run)
        steps = [step for step in range(STEPS + 1, LAST + 1) if lines.get(step) != self.records[step]]
        return f"{way}: silent: records of steps {steps} differ" if steps else ""
