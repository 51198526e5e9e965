"""Sections of a recipe, except the model's shape (:mod:`megatron_octo.config.model`): frozen, strict objects.

Nothing here imports torch, so that ``--help`` and bad input answer at once.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from megatron_octo.config.layout import Layout
from megatron_octo.config.model import Count, Fraction, PositiveFloat, PositiveInt, Section, Share


class ParallelConfig(Section):
    """Ranks of one model replica. Data parallelism takes what remains of the world size."""

    tensor: PositiveInt = 1
    pipeline: PositiveInt = 1
    sequence: bool = False  # split activations between layers over the tensor ranks, too

    @model_validator(mode="after")
    def _sequence_needs_tensor(self) -> Self:
        if self.sequence and self.tensor == 1:
            raise ValueError("sequence parallelism needs parallel.tensor > 1")
        return self

    @property
    def layout(self) -> Layout:
        """The same as a :class:`Layout`, whose number of replicas is still open."""
        return Layout(tensor=self.tensor, pipeline=self.pipeline, sequence=self.sequence)


class DataConfig(Section):
    """Where rows of tokens come from. Paths: ``NAME: WEIGHT START:END PREFIX, ...`` or a file of such lines."""

    train: str
    valid: str | None = None
    tokenizer: str | None = None  # tokenizer.json; checked against the datasets, copied into the run
    seq_length: PositiveInt
    # Documents longer than a row; window repeats the input before every part of a long output.
    overlong: Literal["split", "window", "truncate", "skip", "error"] = "split"
    fim_rate: Share = 0.0  # share of pretraining documents in the order of fill in the middle
    fim_spm_rate: Share = 0.0  # share of these that come suffix first
    plan_cache: str | None = None  # default: RUN/plans
    verify: bool = True  # compare the tokens with their digest at every start: reads each .bin once


class BatchConfig(Section):
    """Rows of ``seq_length`` tokens in one optimizer step, and in one forward pass of one rank."""

    global_size: PositiveInt
    micro_size: PositiveInt = 1


class OptimizerConfig(Section):
    """AdamW, its state sharded over the data-parallel ranks."""

    lr: PositiveFloat
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.1  # not on biases and layer norms
    clip_grad: PositiveFloat = 1.0  # global L2 norm
    state_dtype: Literal["fp32", "bf16"] = (
        "fp32"  # bf16: gradients and moments in bf16 (Transformer Engine only)
    )

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        return self


class ScheduleConfig(Section):
    """Learning rate: linear warm-up from 0 to lr, then decay to min_lr at decay_steps."""

    style: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: Count | None = None
    warmup_fraction: Fraction | None = None  # of decay_steps, as in OctoPack's scripts
    decay_steps: PositiveInt | None = None  # default: train.steps

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError("give warmup_steps or warmup_fraction, not both")
        return self


class TrainConfig(Section):
    steps: PositiveInt
    seed: Count = 1234
    precision: Literal["fp32", "bf16"] = "bf16"
    fp8: Literal["none", "current"] = "none"  # linear layers in fp8, scaled by each tensor's present maximum
    loss_on: Literal["targets", "all"] = "targets"  # all: context tokens are learned, too
    norm_target_loss: bool = False  # every document weighs the same, not every token
    recompute: Literal["none", "mlp", "full"] = "none"  # fused attention never stores its scores


class EvalConfig(Section):
    interval: Count = 0  # steps between validations; 0: never
    steps: PositiveInt = 10  # batches a validation, always the same ones


class CheckpointConfig(Section):
    interval: Count = 1000  # steps between checkpoints; 0: never, not even at the end
    keep: PositiveInt = 3  # newest checkpoints that stay
    keep_every: Count = 0  # those of steps that are multiples of this stay, too
    asynchronous: bool = True  # train on while a copy in host memory is written
    weights_every: Count = 0  # steps between saves of the weights alone, into RUN/weights; 0: never
    weights_dtype: Literal["fp32", "bf16"] | None = None  # of these; default: train.precision
    init_from: str | None = (
        None  # weights to start from: a run, a checkpoint, a Hugging Face or a BigCode directory
    )

    @field_validator("asynchronous", mode="before")
    @classmethod
    def _null_was_a_default(cls, value: Any) -> Any:
        return True if value is None else value


class GuardConfig(Section):
    """What is done about numbers that should not be, before they touch the weights."""

    nonfinite: Literal["stop", "skip"] = "stop"  # a loss or gradient norm that is no number
    spike: Literal["ignore", "skip", "stop"] = "ignore"  # one far above those of the last steps
    window: Annotated[int, Field(ge=4)] = 128  # good steps that a spike is compared with
    sigmas: PositiveFloat = 6.0  # standard deviations above their mean
    max_skips: PositiveInt = 10  # in a row; then the run stops
    replica_interval: Count = (
        100  # steps between comparisons of replicated weights, and before saving; 0: never
    )


class LogConfig(Section):
    interval: PositiveInt = 1  # steps
    tensorboard: bool = True
    wandb_project: str | None = None  # Weights & Biases; offline unless WANDB_MODE says otherwise


class SystemConfig(Section):
    device: Literal["auto", "cpu", "cuda"] = "auto"
    layers: Literal["auto", "fused", "mcore"] = "auto"  # fused: our own kernels (gpt_bigcode)
    tensor_transport: Literal["auto", "peer", "collective"] = (
        "auto"  # peer: copies between GPUs of one machine
    )
    attention: Literal["auto", "flash4", "te", "torch", "unfused"] = "auto"  # te: Transformer Engine
    mlp: Literal["auto", "quack", "plain"] = "auto"  # of our own layers: what computes gelu and its products
    cross_entropy: Literal["auto", "reference", "fused", "te"] = "auto"  # of megatron-core's layers
    overlap: bool = True  # GPU: hide gradient reduction and parameter gathering behind compute
    deterministic: bool = False  # GPU: bitwise the same from run to run; slower
    # Look at every node before the model is built. Bad ones: stop, warn; auto: stop on GPUs, warn on a CPU.
    preflight: Literal["auto", "stop", "warn", "none"] = "auto"
    timeout_minutes: PositiveFloat = 10.0  # without progress of a rank: the run is taken to hang
    wall_minutes: PositiveFloat | None = None  # save and leave before; SLURM's own limit counts, too
    reserve_minutes: PositiveFloat = 2.0  # of the wall clock, for saving
