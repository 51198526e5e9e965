"""Recipe as one frozen, strict object, with the checks that span several sections."""

from typing import Self

from pydantic import model_validator

from megatron_octo.architectures import adapted_modules, find_architecture
from megatron_octo.config.compute import Compute
from megatron_octo.config.model import LoraConfig, ModelConfig, Section
from megatron_octo.config.sections import (
    BatchConfig,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    GuardConfig,
    LogConfig,
    OptimizerConfig,
    ParallelConfig,
    ScheduleConfig,
    SystemConfig,
    TrainConfig,
)
from megatron_octo.recipe.compute import resolve


class Recipe(Section):
    """All settings of a run, and the directory that holds it."""

    run_dir: str
    """Directory of the run: recipe, checkpoints, metrics, logs. An existing run is resumed."""
    model: ModelConfig
    parallel: ParallelConfig = ParallelConfig()
    data: DataConfig
    batch: BatchConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig
    lora: LoraConfig | None = None
    """null: train all weights; `{}`: train adapters with the defaults below."""
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    guard: GuardConfig = GuardConfig()
    log: LogConfig = LogConfig()
    system: SystemConfig = SystemConfig()

    @property
    def compute(self) -> Compute:
        """How the network is computed, resolved once per recipe.

        Raises:
            OctoError: see :func:`megatron_octo.recipe.compute.resolve`.
        """
        return resolve(self)

    @property
    def decay_steps(self) -> int:
        """Step at which the learning rate stops falling."""
        return self.schedule.decay_steps or self.train.steps

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up."""
        if self.schedule.warmup_fraction is not None:
            return int(self.schedule.warmup_fraction * self.decay_steps)
        return self.schedule.warmup_steps or 0

    def _check_layout(self) -> None:
        model, tensor = self.model, self.parallel.tensor
        divided = {
            "model.num_attention_heads": model.num_attention_heads,
            "model.ffn_hidden_size": model.ffn_hidden_size,
            "the padded vocabulary (see model.vocab_multiple)": model.padded_vocab_size,
            # Megatron-core shards the fused rows of queries, keys and values evenly.
            "model.hidden_size + 2 * num_query_groups * head_dim": model.qkv_size,
        }
        for name, size in divided.items():
            if size % tensor:
                raise ValueError(f"parallel.tensor {tensor} does not divide {name}, {size}")
        if model.num_query_groups % tensor and tensor % model.num_query_groups:
            raise ValueError(
                f"parallel.tensor {tensor} is neither a divisor nor a multiple of "
                f"model.num_query_groups {model.num_query_groups}"
            )
        if model.num_layers % self.parallel.pipeline:
            raise ValueError(
                f"parallel.pipeline {self.parallel.pipeline} does not divide model.num_layers {model.num_layers}"
            )
        if self.parallel.sequence and self.data.seq_length * self.batch.micro_size % tensor:
            raise ValueError(f"parallel.tensor {tensor} does not divide the tokens of a micro-batch")

    def _check_fp8_sizes(self) -> None:
        if self.train.fp8 == "none":
            return
        model, tensor = self.model, self.parallel.tensor
        tokens = self.batch.micro_size * self.data.seq_length
        sizes = {
            "tokens of a micro-batch": tokens // self.parallel.layout.token_ranks,
            "queries": model.attention_size // tensor,
            "key and value": 2 * model.head_dim,
            "hidden size": model.hidden_size,
            "feed-forward layer": model.ffn_hidden_size // tensor,
        }
        for name, size in sizes.items():
            if size % 16:
                raise ValueError(f"train.fp8 multiplies matrices of multiples of 16; {name}: {size} on a tensor rank")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        model = self.model
        find_architecture(model.architecture).check(model)
        if self.data.seq_length > model.max_position_embeddings:
            raise ValueError(
                f"data.seq_length {self.data.seq_length} is longer than "
                f"model.max_position_embeddings {model.max_position_embeddings}"
            )
        self._check_layout()
        self._check_fp8_sizes()
        if self.batch.global_size % self.batch.micro_size:
            raise ValueError(
                f"batch.micro_size {self.batch.micro_size} does not divide batch.global_size {self.batch.global_size}"
            )
        if self.warmup_steps >= self.decay_steps and self.schedule.style != "constant":
            raise ValueError(f"warm-up takes all of the {self.decay_steps} decay steps")
        if self.lora:
            adapted_modules(model, self.lora)
            if not self.checkpoint.init_from:
                raise ValueError("lora trains adapters of a model that is there: set checkpoint.init_from")
        if self.eval.interval and not self.data.valid:
            raise ValueError("eval.interval is set but data.valid is not")
        return self
