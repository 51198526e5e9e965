"""Every recipe loads, and OctoPack's runs have OctoPack's numbers."""

import json
import math
from pathlib import Path

import pytest

from megatron_octo.architectures import adapted_modules
from megatron_octo.architectures.adapters import count_adapter_parameters
from megatron_octo.architectures.parameters import count_parameters
from megatron_octo.config.model import LoraConfig, ModelConfig
from megatron_octo.data.dataset.indexed import open_corpus
from megatron_octo.preprocess import main as preprocess
from megatron_octo.recipe.loading import dump_recipe, load_recipe
from megatron_octo.recipe.schema import Recipe
from tests.data.conftest import CONTROL, train_tokenizer
from tests.places import RECIPES


def load(name: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml")


def parameters(model: ModelConfig) -> int:
    """Of GPTBigCode with tied embeddings, counted from the shapes."""
    h, f, d = model.hidden_size, model.ffn_hidden_size, model.head_dim
    attention = (h + 2 * d) * h + (h + 2 * d) + h * h + h
    mlp = f * h + f + h * f + h
    norms = 4 * h
    embeddings = (model.vocab_size + model.max_position_embeddings) * h
    return embeddings + model.num_layers * (attention + mlp + norms) + 2 * h


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    saved = tmp_path / "recipe.yaml"
    saved.write_text(dump_recipe(recipe))
    assert load_recipe(saved) == recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_fits_any_machine(path: Path) -> None:
    """No absolute path, and training and validation data do not overlap."""
    recipe = load_recipe(path)
    data = recipe.data
    for text in (recipe.run_dir, data.train, data.valid, data.tokenizer, recipe.checkpoint.init_from):
        assert text is None or not any(word.startswith("/") for word in text.split())
    assert data.valid is not None
    trained_until = float(data.train.split()[2].split(":")[1])
    assert float(data.valid.split()[2].split(":")[0]) >= trained_until


def test_santacoderpack() -> None:
    recipe = load("santacoderpack")
    assert parameters(recipe.model) == 1_137_207_296
    assert recipe.model.padded_vocab_size == recipe.model.vocab_size == 49_152
    assert (recipe.model.hidden_size + 2 * recipe.model.head_dim, recipe.model.hidden_size) == (2304, 2048)
    assert (recipe.parallel.tensor, recipe.parallel.pipeline, recipe.parallel.sequence) == (1, 1, False)
    assert (recipe.batch.micro_size, recipe.batch.global_size, recipe.data.seq_length) == (2, 64, 8192)
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.min_lr, optimizer.weight_decay) == (2e-4, 0.0, 0.1)
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.clip_grad) == (0.9, 0.95, 1e-8, 1.0)
    assert (recipe.schedule.style, recipe.warmup_steps, recipe.decay_steps) == ("cosine", 12_000, 600_000)
    assert (recipe.train.steps, recipe.train.precision, recipe.train.loss_on) == (250_000, "bf16", "all")
    model = recipe.model
    assert (model.hidden_dropout, model.attention_dropout, model.init_std) == (
        0.1,
        0.1,
        0.022,
    )
    # The recipe's comment names the learning rate at the end: cosine, 238,000 of 588,000 decaying steps done.
    end = 2e-4 * 0.5 * (1 + math.cos(math.pi * 238_000 / 588_000))
    assert f"{end:.1e}" == "1.3e-04"


def test_santacoderpack_data(tmp_path: Path) -> None:
    """OctoPack's texts, as README preprocesses them, and CommitPack's rows become the same tokens."""
    rows = [
        {"old_contents": old, "subject": subject, "new_contents": new}
        for old, subject, new in (("a = 1\n", "Set a", "a = 2\n"), ("", "Add b", "def b():\n    pass\n"))
    ]
    texts = [
        f"<commit_before>{row['old_contents']}<commit_msg>{row['subject']}<commit_after>{row['new_contents']}"
        for row in rows
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "empty.jsonl").touch()  # the published data set has empty files
    tokenizer = train_tokenizer(tmp_path / "tokenizer.json", CONTROL)
    found = []
    for name, options in (
        ("rows", ["--format", "commits"]),
        ("texts", ["--format", "text", "--allow-special"]),
    ):
        inputs = [str(tmp_path / f"{each}.jsonl") for each in (name, "empty")]
        prefix = tmp_path / name
        arguments = ["--input", *inputs, "--output-prefix", str(prefix), "--tokenizer", str(tokenizer)]
        assert preprocess([*arguments, *options]) == 0
        corpus = open_corpus(prefix)
        found.append([corpus.document(number)[0].tolist() for number in range(len(rows))])
    assert found[0] == found[1] and all(document[0] == CONTROL.index("<commit_before>") for document in found[0])


def test_starcoderbase_finetune() -> None:
    recipe = load("starcoderbase_finetune")
    assert parameters(recipe.model) == 15_517_456_384
    assert (recipe.model.hidden_size + 2 * recipe.model.head_dim, recipe.model.hidden_size) == (6400, 6144)
    assert (recipe.parallel.tensor, recipe.parallel.pipeline, recipe.parallel.sequence) == (4, 4, True)
    assert (recipe.batch.micro_size, recipe.batch.global_size, recipe.data.seq_length) == (1, 128, 8192)
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.min_lr, optimizer.weight_decay) == (5e-5, 5e-6, 0.05)
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.clip_grad) == (0.9, 0.95, 1e-8, 1.0)
    assert (recipe.schedule.style, recipe.warmup_steps, recipe.decay_steps) == ("cosine", 100, 10_000)
    assert (recipe.train.steps, recipe.train.precision, recipe.train.loss_on) == (10_000, "bf16", "targets")
    assert recipe.train.norm_target_loss
    model = recipe.model
    assert (model.hidden_dropout, model.attention_dropout, model.init_std) == (
        0.1,
        0.1,
        0.01275,
    )
    assert recipe.checkpoint.init_from is not None


def test_octocoder_lora() -> None:
    recipe = load("octocoder_lora")
    lora, optimizer, model = recipe.lora, recipe.optimizer, recipe.model
    assert lora is not None and (lora.rank, lora.alpha, lora.dropout) == (16, 32.0, 0.05)
    assert adapted_modules(model, lora) == adapted_modules(model, LoraConfig())
    assert adapted_modules(model, lora) == (
        "self_attention.linear_qkv",
        "self_attention.linear_proj",
        "mlp.linear_fc2",
    )
    # 16 * [(6144+6400) + (6144+6144) + (24576+6144)] in each of 40 layers
    assert count_adapter_parameters(model, lora) == 35_553_280
    assert parameters(model) == 15_517_456_384
    assert (optimizer.lr, optimizer.min_lr, optimizer.weight_decay) == (5e-4, 0.0, 0.05)
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.clip_grad) == (0.9, 0.999, 1e-8, 1.0)
    assert (recipe.schedule.style, recipe.warmup_steps, recipe.decay_steps) == ("cosine", 5, 1000)
    assert (recipe.data.seq_length, recipe.batch.micro_size, recipe.train.steps) == (2048, 1, 1000)
    assert (recipe.train.loss_on, recipe.train.precision, recipe.train.recompute) == ("all", "bf16", "full")
    assert (recipe.eval.interval, recipe.checkpoint.interval, recipe.log.interval) == (1, 5, 1)


# Of OctoPack's scripts finetune_santacoder*.sh: GPUs, rows a batch, lr, lr at the end, schedule, steps, warm-up steps,
# weight decay, both dropouts, steps between checkpoints and validations, normalised, loss on targets alone.
SANTACODER = {
    "": (24, 192, 4e-4, 4e-5, "cosine", 50_000, 500, 0.1, 0.1, 5000, 2500, True, "targets"),
    "_constant": (8, 64, 4e-4, 4e-4, "constant", 100_000, 100, 0.01, 0.05, 2000, 2000, True, "targets"),
    "_ql": (8, 64, 5e-5, 5e-6, "cosine", 50_000, 250, 0.05, 0.1, 3000, 1500, False, "all"),
    "_long": (24, 192, 4e-4, 4e-5, "cosine", 50_000, 500, 0.1, 0.1, 5000, 2500, True, "targets"),
    # The script asks for 24 GPUs, over which 64 rows cannot be shared out.
    "_long64bs": (8, 64, 4e-4, 4e-5, "cosine", 150_000, 1500, 0.1, 0.1, 5000, 2500, True, "targets"),
    "_longfullloss": (24, 192, 4e-4, 4e-5, "cosine", 50_000, 500, 0.1, 0.1, 5000, 2500, True, "all"),
    "_longlr": (16, 128, 5e-5, 5e-6, "cosine", 100_000, 1000, 0.1, 0.1, 10_000, 5000, True, "targets"),
    "_longlrinput": (16, 128, 5e-5, 5e-6, "cosine", 100_000, 1000, 0.1, 0.1, 10_000, 5000, True, "all"),
}


@pytest.mark.parametrize("variant", SANTACODER)
def test_finetune_santacoder(variant: str) -> None:
    recipe = load(f"finetune_santacoder{variant}")
    model, optimizer, train, schedule = recipe.model, recipe.optimizer, recipe.train, recipe.schedule
    gpus = SANTACODER[variant][0]
    assert (
        gpus,
        recipe.batch.global_size,
        optimizer.lr,
        optimizer.min_lr,
        schedule.style,
        train.steps,
        recipe.warmup_steps,
        optimizer.weight_decay,
        model.hidden_dropout,
        recipe.checkpoint.interval,
        recipe.eval.interval,
        train.norm_target_loss,
        train.loss_on,
    ) == SANTACODER[variant]
    assert recipe.batch.global_size % (gpus * recipe.batch.micro_size) == 0
    # What all of them share.
    assert parameters(model) == 1_124_886_528
    assert (model.hidden_dropout, model.init_std) == (model.attention_dropout, 0.022)
    assert (recipe.data.seq_length, model.max_position_embeddings, recipe.data.fim_rate) == (2048, 2048, 0.0)
    assert (recipe.parallel.tensor, recipe.parallel.pipeline, recipe.batch.micro_size) == (1, 1, 8)
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.clip_grad) == (0.9, 0.95, 1e-8, 1.0)
    assert (recipe.decay_steps, recipe.eval.steps, recipe.log.interval) == (train.steps, 10, 10)
    assert recipe.checkpoint.init_from == "models/santacoder"


def test_starcoder2_3b_finetune() -> None:
    recipe, base = load("starcoder2_3b_finetune"), load("starcoderbase_finetune")
    model = recipe.model
    assert count_parameters(model) == 3_030_371_328
    assert (model.num_query_groups, model.rotary_base, model.sliding_window) == (2, 999999.4420358813, 4096)
    assert (recipe.parallel.tensor, recipe.parallel.pipeline, recipe.parallel.sequence) == (1, 1, False)
    assert (recipe.data.train.count("starcoder2"), recipe.checkpoint.init_from) == (1, "models/starcoder2_3b")
    different = {"run_dir", "model", "parallel", "data", "checkpoint"}
    assert recipe.model_dump(exclude=different) == base.model_dump(exclude=different)


def test_run_directories_differ() -> None:
    """Two recipes in one run directory would be taken for one run."""
    runs = [load(path.stem).run_dir for path in RECIPES.glob("*.yaml")]
    assert len(runs) == len(set(runs))


def test_santacoderpack_fim() -> None:
    plain, fim = load("santacoderpack"), load("santacoderpack_fim")
    assert (fim.data.fim_rate, fim.data.fim_spm_rate, plain.data.fim_rate) == (0.5, 0.5, 0.0)
    same = {"run_dir", "data"}
    assert fim.model_dump(exclude=same) == plain.model_dump(exclude=same)


@pytest.mark.parametrize(
    "name,gpus",
    [
        ("santacoderpack", (1, 2, 4, 8, 16, 32)),
        ("starcoderbase_finetune", (16, 32, 64, 128)),
        ("starcoder2_3b_finetune", (1, 2, 4, 8, 16, 32)),
    ],
)
def test_batch_divides_over_the_replicas(name: str, gpus: tuple[int, ...]) -> None:
    recipe = load(name)
    for count in gpus:
        replicas, rest = divmod(count, recipe.parallel.tensor * recipe.parallel.pipeline)
        assert rest == 0
        assert recipe.batch.global_size % (replicas * recipe.batch.micro_size) == 0


@pytest.mark.parametrize("name", ["demo", "smoke_commits"])
def test_small_recipes_run_on_two_cpu_processes(name: str) -> None:
    recipe = load(name)
    assert recipe.parallel.tensor * recipe.parallel.pipeline == 2
    assert (recipe.system.device, recipe.train.precision) == ("cpu", "fp32")
