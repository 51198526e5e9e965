"""Values of recipes, profiles, records and rows that may become code, markup or commands of a terminal."""

import json
import os
import random
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

from benchmarks.campaigns.attack import Campaign, Outcome, clear, controls, ending
from benchmarks.campaigns.inputs import make_data, make_rows, make_run
from benchmarks.campaigns.payloads import CANARY, PAYLOADS, PROFILE, RECIPE
from benchmarks.support import forks

_STUBS = {
    "sbatch": "echo Submitted batch job 7",
    "squeue": ":",
    "sacct": ":",
    "srun": 'echo "$@" >> srun.txt',
    "module": ":",
    "scontrol": '[ "$2" = job ] && echo "   Command=$SCRIPT" || echo n1',
}
_FORBIDDEN = {"script", "iframe", "img", "object", "embed", "link", "base", "form", "input", "video", "audio"}


class Page(HTMLParser):
    """The tags of a page that run code or load something."""

    def __init__(self, text: str) -> None:
        """Parse a whole page."""
        super().__init__()
        self.found: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Look at one tag."""
        if tag in _FORBIDDEN:
            self.found.append(f"<{tag}>")
        for name, value in attributes:
            loads = name in ("href", "src", "xlink:href") and not (value or "").startswith("#")
            if name.startswith("on") or loads:
                self.found.append(f"{tag} {name}={value}")


def put(tree: dict[str, Any], place: tuple[str, ...], value: str) -> None:
    """Set a place of a tree; ``0`` is a list's first item, ``*`` a key of that text."""
    *path, last = place
    node: Any = tree
    for key, after in zip(path, place[1:]):
        node = node.setdefault(key, [] if after == "0" else {})
    if last == "0":
        node.append(value)
    elif last == "*":
        node[value] = "x"
    else:
        node[last] = value


class Attacks(Campaign):
    """One value in one place; then everything that reads it, and the scripts made of it, run with stubs of SLURM."""

    count = 330

    def __init__(self, folder: Path) -> None:
        """Train a run, and write stubs of SLURM's commands."""
        super().__init__(folder)
        forks.warm_up_run()
        make_data(folder)
        self.run = make_run(folder, "run")
        ledger = {"event": "start", "job": "7", "restart": 0, "time": 1.0, "nodes": ["n1"], "saved": 0}
        end = {"event": "end", "job": "7", "restart": 0, "ended": 2.0, "reason": "hang", "detail": "x"}
        (self.run / "slurm.jsonl").write_text(json.dumps(ledger) + "\n" + json.dumps(end) + "\n")
        self.stubs = folder / "stubs"
        self.stubs.mkdir()
        for name, body in _STUBS.items():
            (self.stubs / name).write_text(f"#!/bin/bash\n{body}\n")
            (self.stubs / name).chmod(0o755)
        self._control("benign", [], "")
        self._control("planted", [f"touch {CANARY}"], "code ran")

    def _control(self, name: str, setup: list[str], wanted: str) -> None:
        """Check that scripts come as far as srun, and that code in them would be found."""
        folder = self.folder / name
        folder.mkdir()
        verdict, fault = self._submit(folder, self._base(folder), {"setup": setup})
        steps = (folder / "srun.txt").read_text().splitlines() if (folder / "srun.txt").exists() else []
        assert verdict == "ran" and not fault, fault
        assert len(steps) >= 3, f"the scripts did not come as far as srun: {steps}"
        assert self._code_ran(folder).startswith(wanted)
        clear(folder)

    @staticmethod
    def _code_ran(folder: Path) -> str:
        left = [*folder.rglob(f"{CANARY}*"), *Path.cwd().glob(f"{CANARY}*")]
        return f"code ran: {left[0]}" if left else ""

    def attack(self, generator: random.Random, folder: Path) -> Outcome:
        """Choose a place and a payload."""
        sort = generator.choice(list(PAYLOADS))
        payload = generator.choice(["", "x", "a/"]) + generator.choice(PAYLOADS[sort])
        place = generator.choice(["profile", "profile", "recipe", "record", "record", "row", "arguments"])
        if sort == "markup":
            place = "record" if generator.random() < 0.7 else place
        verdict, fault = getattr(self, f"_{place}")(generator, folder, payload)
        fault = fault or self._code_ran(folder)
        return Outcome(f"{sort} in a {place}", verdict, f"{payload!r}: {fault}" if fault else "")

    def _environment(self, **more: str) -> dict[str, str]:
        slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1"}
        return {"PATH": f"{self.stubs}:{os.environ['PATH']}", **slurm, **more}

    def _submit(self, folder: Path, recipe: dict[str, Any], profile: dict[str, Any], *words: str) -> tuple[str, str]:
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (folder / "cluster.yaml").write_text(yaml.safe_dump({"gpus_per_node": 1, **profile}))
        stages = "train,convert,verify" if not words else "preprocess,train,convert"
        command = ["recipe.yaml", "--cluster", "cluster.yaml", "--stages", stages, *words]
        environment = {"PATH": self._environment()["PATH"]}
        before = {*folder.rglob("*")}
        done = forks.command("megatron_octo.submit", command, folder / "log", folder=folder, environment=environment)
        if fault := ending(done) or controls(done.text):
            return "", f"submit: {fault}"
        if done.code:
            return "refused", ""
        scripts = [path for path in {*folder.rglob("*.sh")} - before if "/code/" not in str(path)]
        if not scripts:
            return "", "nothing was written"
        return "ran", self._run_scripts(scripts, folder)

    def _run_scripts(self, scripts: list[Path], folder: Path) -> str:
        for script in sorted(scripts):
            text = script.read_text(errors="surrogateescape")
            options = {line.split("=")[0] for line in text.splitlines() if line.startswith("#SBATCH")}
            if any(word in option for option in options for word in ("wrap", "touch")):
                return f"an option of sbatch: {options}"
            environment = self._environment(SCRIPT=str(script))
            command, home = ["timeout", "60", "bash", str(script)], {"HOME": str(folder)}
            subprocess.run(command, cwd=folder, env={**environment, **home}, capture_output=True)
        return ""

    def _base(self, folder: Path) -> dict[str, Any]:
        tree: dict[str, Any] = yaml.safe_load((self.folder / "run.yaml").read_text())
        return {**tree, "run_dir": str(folder / "job")}

    def _profile(self, generator: random.Random, folder: Path, payload: str) -> tuple[str, str]:
        profile: dict[str, Any] = {}
        place = generator.choice(PROFILE)
        put(profile, place, payload)
        if place[0] == "container" and "image" not in profile["container"]:
            profile["container"]["image"] = "image"
        return self._submit(folder, self._base(folder), profile)

    def _recipe(self, generator: random.Random, folder: Path, payload: str) -> tuple[str, str]:
        recipe = self._base(folder)
        place = generator.choice(RECIPE)
        value = f"{folder}/job{payload}" if place == ("run_dir",) else payload
        put(recipe, place, f"t: 1.0 0:1 {payload}" if place == ("data", "train") else value)
        return self._submit(folder, recipe, {})

    def _arguments(self, generator: random.Random, folder: Path, payload: str) -> tuple[str, str]:
        given = "--input x.jsonl --output-prefix x --tokenizer t.json"
        payload = payload.encode(errors="replace").decode().replace("\x00", "")
        words = generator.choice(
            [
                ["--preprocess", f"{given} --text-key {shlex.quote(payload)}"],
                ["--preprocess", given, "--convert", f"--tokenizer {shlex.quote(payload)}"],
                ["--preprocess", given, "--account", payload],
                ["--preprocess", given, "--array", payload],
                ["--preprocess", given, f"log.wandb_project={payload}"],
                ["--preprocess", payload],
            ]
        )
        return self._submit(folder, self._base(folder), {}, *words)

    def _record(self, generator: random.Random, folder: Path, payload: str) -> tuple[str, str]:
        run = Path(shutil.copytree(self.run, folder / "runs" / "run"))
        names = [
            "state.json",
            "attempts/001.json",
            "metrics.jsonl",
            "slurm.jsonl",
            "recipe.yaml",
            "validation.jsonl",
        ]
        path = run / generator.choice([name for name in names if (run / name).exists()])
        whole = path.suffix != ".jsonl"
        text = path.read_text()
        trees = [yaml.safe_load(text)] if whole else [json.loads(line) for line in text.splitlines()]
        leaves = [leaf for tree in trees for leaf in _strings(tree)]
        if not leaves:
            return "no place", ""
        holder, key = generator.choice(leaves)
        holder[key] = payload
        path.write_text("".join(json.dumps(tree) + "\n" for tree in trees))
        report = folder / "report.html"
        commands: list[tuple[str, list[str | Path]]] = [
            ("inspect", [run]),
            ("inspect", [run, "--report", report]),
            ("submit", ["status", run]),
            ("submit", ["list", run.parent]),
        ]
        for module, words in commands:
            done = forks.command(f"megatron_octo.{module}", words, folder / "log", limit=30, folder=folder)
            if fault := ending(done) or controls(done.text):
                return "", f"{module} {words[0]} with {path.name} {key}: {fault}"
        tags = Page(report.read_text(errors="replace")).found if report.exists() else []
        return "shown", f"the page holds {tags[:3]} by {path.name} {key}" if tags else ""

    def _row(self, generator: random.Random, folder: Path, payload: str) -> tuple[str, str]:
        payload = payload.encode(errors="replace").decode()
        rows = [{**row, "inputs": row["inputs"] + payload} for row in make_rows(20)]
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        prefix = folder / "data"
        words: list[str | Path] = ["--input", path, "--output-prefix", prefix]
        words += ["--tokenizer", self.folder / "tokenizer.json"]
        done = forks.command("megatron_octo.preprocess", [*words, "--workers", "1"], folder / "log")
        if (fault := ending(done)) or done.code:
            return "refused", fault
        looks: list[list[str | Path]] = [["--sample", "3"], ["--row", "0", "--seq-length", "128"]]
        for more in looks:
            done = forks.command("megatron_octo.inspect", [prefix, *more], folder / "log")
            if fault := ending(done) or controls(done.text):
                return "", f"inspect {more[0]}: {fault}"
        return "shown", ""


def _strings(tree: Any) -> list[tuple[Any, Any]]:
    """Return holder and key of every string, number and null in a JSON value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = []
    for key, value in list(items):
        found += _strings(value) if isinstance(value, dict | list) else [(tree, key)]
    return found
