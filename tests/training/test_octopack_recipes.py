"""The recipes for GPUs train, OctoPack's and others: each with all of its settings except the sizes."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from megatron_octo import preprocess
from megatron_octo.data.text.tokenizer import Tokenizer
from megatron_octo.recipe.loading import build_recipe, load_recipe
from megatron_octo.runfiles.run_directory import read_metrics
from megatron_octo.training.engine.schedule import learning_rate
from tests.data.conftest import train_tokenizer
from tests.distributed import train
from tests.places import RECIPES

NAMES = sorted({path.stem for path in RECIPES.glob("*.yaml")} - {"demo", "smoke_commits"})
CONTROL = ["<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>"]


class Material(NamedTuple):
    """Data sets of pairs and of texts, their tokenizer, and runs whose weights others start from."""

    tokenizer: Path
    pairs: Path
    texts: Path
    weights: dict[tuple[str, str], Path]  # by architecture and activation


def shrink(name: str, material: Material, folder: Path) -> dict[str, Any]:
    """The recipe's mapping with small sizes; all that is not a size stays."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    tree = recipe.model_dump()
    kind = recipe.model.architecture, recipe.model.activation
    vocabulary = Tokenizer(material.tokenizer).vocab_size
    corpus = material.texts if recipe.train.loss_on == "all" and recipe.data.fim_rate else material.pairs
    sizes: dict[str, dict[str, Any]] = {
        "model": {
            "num_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "ffn_hidden_size": 128,
            "max_position_embeddings": 64,
            "vocab_size": vocabulary,
        },
        "parallel": {
            "tensor": min(2, recipe.parallel.tensor),
            "pipeline": min(2, recipe.parallel.pipeline),
        },
        "data": {
            "train": f"train: 1.0 0:0.9 {corpus}",
            "valid": f"valid: 1.0 0.9:1 {corpus}",
            "tokenizer": str(material.tokenizer),
            "seq_length": 64,
        },
        "batch": {"global_size": 4, "micro_size": min(2, recipe.batch.micro_size)},
        "schedule": {"decay_steps": 500},
        "train": {"steps": 3},
        "eval": {"interval": 2, "steps": 1},
        "checkpoint": {
            "interval": 3,
            "init_from": recipe.checkpoint.init_from and str(material.weights[kind]),
        },
        "log": {"interval": 1},
        "system": {"device": "cpu"},
    }
    for section, values in sizes.items():
        tree[section].update(values)
    return {**tree, "run_dir": str(folder / name)}


def run(tree: dict[str, Any]) -> str:
    """Train on as many ranks as one replica has; what it printed."""
    folder, recipe = Path(tree["run_dir"]), build_recipe(tree)
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(tree))
    world = recipe.parallel.tensor * recipe.parallel.pipeline
    codes, text = train(world, [str(path)], folder.with_suffix(".log"))
    assert codes == [0] * world, text
    return text


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("material")
    tokenizer = train_tokenizer(folder / "tokenizer.json", CONTROL)
    rows = [
        {"inputs": f"Question: {n}\n", "outputs": "\n".join(f"def f{i}(a): return a + {i}" for i in range(n))}
        for n in range(1, 24)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    (folder / "texts.jsonl").write_text(
        "".join(json.dumps({"text": row["inputs"] + row["outputs"]}) + "\n" for row in rows * 3)
    )
    for name, kind in (("pairs", "finetune"), ("texts", "text")):
        options = ["--format", kind, "--tokenizer", str(tokenizer), "--output-prefix", str(folder / name)]
        assert preprocess.main(["--input", str(folder / f"{name}.jsonl"), *options]) == 0
    made = Material(tokenizer, folder / "pairs", folder / "texts", {})
    for name in ("santacoderpack", "starcoderbase_finetune", "starcoder2_3b_finetune"):
        model, path = load_recipe(RECIPES / f"{name}.yaml").model, folder / name
        made.weights[model.architecture, model.activation] = path
        tree = shrink(name, made, folder)
        tree["checkpoint"]["init_from"] = None
        run(tree)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_trains(name: str, material: Material, tmp_path: Path) -> None:
    tree = shrink(name, material, tmp_path)
    text = run(tree)
    recipe = build_recipe(tree)
    source = recipe.checkpoint.init_from
    start = f"starting from the weights of {source}" if source else "fresh start"
    assert start in text and "finished at step 3" in text
    records = list(read_metrics(tmp_path / name))
    assert [record["step"] for record in records] == [1, 2, 3]
    assert all(4.0 < float(record["loss"]) < 8.0 for record in records)  # ln(400) = 6.0
    assert [record["lr"] for record in records] == [learning_rate(recipe, step) for step in (1, 2, 3)]
    assert "valid" in text
