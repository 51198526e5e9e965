"""Recipe sections other than the model's shape: frozen, strict objects. Imports no torch, so that checks are quick."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from megatron_octo.config.layout import Layout
from megatron_octo.config.model import Count, Fraction, PositiveFloat, PositiveInt, Section, Share


class ParallelConfig(Section):
    """Ranks that hold one replica of the model. World size / (tensor x pipeline) is the number of replicas."""

    tensor: PositiveInt = 1
    """Ranks that share every layer; keep them on one node."""
    pipeline: PositiveInt = 1
    """Ranks that hold successive layers; must divide `model.num_layers`."""
    sequence: bool = False
    """With `parallel.tensor` > 1: also split activations between layers over these ranks."""

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
    """Data sets and rows.

    Data paths have the form `NAME: WEIGHT START:END PREFIX, WEIGHT START:END PREFIX, ...`: data sets with their
    weights, and from each the documents between START and END (fractions). Give them here, or name a file of them.
    """

    multiline = frozenset({"train", "valid"})

    train: str
    """Data paths for training."""
    valid: str | None = None
    """Data paths for validation; several groups are evaluated and reported by name."""
    tokenizer: str | None = None
    """tokenizer.json; compared with that of the data sets and copied into the run for conversion."""
    seq_length: PositiveInt
    """Tokens per row; at most `model.max_position_embeddings`."""
    overlong: Literal["split", "window", "truncate", "skip", "error"] = "split"
    """Documents longer than a row: `split` them, `window` (repeat the input before each part of a long output),
    `truncate` (keep the head), `skip`, or `error`; see docs/data.md."""
    fim_rate: Share = 0.0
    """Share of the pretraining documents (`--format text`) reordered for fill in the middle, drawn anew each epoch;
    StarCoder: 0.5."""
    fim_spm_rate: Share = 0.0
    """Share of those that start with the suffix; StarCoder: 0.5."""
    plan_cache: str | None = None
    """Directory for packing plans; null: `RUN/plans`."""
    verify: bool = True
    """Compare each `.bin` with the digest in its manifest, once per run and again if the file changed; false: compare
    sizes only."""


class BatchConfig(Section):
    """Rows of `data.seq_length` tokens per optimizer step and per forward pass."""

    global_size: PositiveInt
    """Rows per optimizer step, over all replicas; a multiple of replicas x `batch.micro_size`."""
    micro_size: PositiveInt = 1
    """Rows per forward pass of one replica: trades memory for speed and never changes the result."""


class OptimizerConfig(Section):
    """AdamW; its state is sharded over the replicas."""

    lr: PositiveFloat
    """Peak learning rate."""
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at the end of the decay."""
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.95
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Added to the denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay; not applied to biases and layer norms."""
    clip_grad: PositiveFloat = 1.0
    """Largest global L2 norm of the gradients."""
    state_dtype: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: keep gradients and moments in bf16 (Transformer Engine only)."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        return self


class ScheduleConfig(Section):
    """Linear warm-up from 0 to `optimizer.lr`, then decay to `optimizer.min_lr`."""

    style: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay: `cosine`, `linear` or `constant`."""
    warmup_steps: Count | None = None
    """Warm-up steps; give this or `schedule.warmup_fraction`; null: none."""
    warmup_fraction: Fraction | None = None
    """Warm-up as a fraction of the decay steps."""
    decay_steps: PositiveInt | None = None
    """Step at which the decay ends, warm-up included; null: `train.steps`."""

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError("give warmup_steps or warmup_fraction, not both")
        return self


class TrainConfig(Section):
    """Length, precision and loss of the training."""

    steps: PositiveInt
    """Optimizer steps."""
    seed: Count = 1234
    """Seed of initial weights, dropout and data order."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """`bf16` (with fp32 master weights) or `fp32`."""
    fp8: Literal["none", "current"] = "none"
    """`current`: linear layers in fp8, each tensor scaled by its current maximum (Transformer Engine; on a CPU the
    fused layers emulate the rounding)."""
    loss_on: Literal["targets", "all"] = "targets"
    """`targets`: learn only tokens that preprocessing marked as targets; `all`: learn the context as well."""
    norm_target_loss: bool = False
    """Give the targets of every document the same total weight, whatever their number."""
    recompute: Literal["none", "mlp", "full"] = "none"
    """Activations recomputed in the backward pass: `none`, `mlp`, or `full` (whole layers). Fused attention never
    stores its scores."""


class EvalConfig(Section):
    """Validation during training."""

    interval: Count = 0
    """Steps between validations; 0: never."""
    steps: PositiveInt = 10
    """Batches per validation, the same ones every time."""


class CheckpointConfig(Section):
    """Checkpoints, exported weights and the weights to start from."""

    interval: Count = 1000
    """Steps between checkpoints, plus one at the end; 0: no checkpoints at all."""
    keep: PositiveInt = 3
    """Newest checkpoints to keep."""
    keep_every: Count = 0
    """Also keep checkpoints of steps that are multiples of this; 0: none."""
    asynchronous: bool = True
    """Continue training while a copy of the state in host memory is written; falls back to waiting, with a message,
    where memory is short."""
    weights_every: Count = 0
    """Steps between saves of the weights alone into `RUN/weights`, plus one at the end; all are kept; 0: never."""
    weights_dtype: Literal["fp32", "bf16"] | None = None
    """`fp32` or `bf16` for the weights saved alone; null: `train.precision`."""
    init_from: str | None = None
    """Weights to start from, with a fresh optimizer: a run, a checkpoint, a Hugging Face model directory (safetensors),
    or a checkpoint of BigCode's Megatron-LM. Ignored once the run has its own checkpoint, except to find the base of
    adapters that was moved."""

    @field_validator("asynchronous", mode="before")
    @classmethod
    def _null_was_a_default(cls, value: Any) -> Any:
        return True if value is None else value


class GuardConfig(Section):
    """Reaction to bad numbers, before they change the weights (docs/faults.md)."""

    nonfinite: Literal["stop", "skip"] = "stop"
    """Loss or gradient norm is NaN or infinite: `stop` and keep the batch in `RUN/guard`, or `skip` the step with a
    message."""
    spike: Literal["ignore", "skip", "stop"] = "ignore"
    """Loss or gradient norm far above that of recent steps: `ignore`, `skip` or `stop`."""
    window: Annotated[int, Field(ge=4)] = 128
    """Good steps that a spike is compared with; half of them are needed before the comparison starts."""
    sigmas: PositiveFloat = 6.0
    """Standard deviations above their mean that count as a spike."""
    max_skips: PositiveInt = 10
    """Skipped steps allowed in a row; one more stops the run."""
    replica_interval: Count = 100
    """Steps between bitwise comparisons of all copies of each weight, also before each checkpoint; 0: never."""


class LogConfig(Section):
    """Progress lines, TensorBoard and Weights & Biases."""

    interval: PositiveInt = 1
    """Steps between progress lines; `metrics.jsonl` has every step."""
    tensorboard: bool = True
    """Write `RUN/tensorboard`."""
    wandb_project: str | None = None
    """Weights & Biases project (`pip install -e '.[wandb]'`); offline unless `WANDB_MODE` is set otherwise."""


class SystemConfig(Section):
    """Use of the machine. Nothing here changes the computation beyond the rounding of other kernels."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`cuda`, `cpu`, or `auto`: a GPU if there is one."""
    layers: Literal["auto", "fused", "mcore"] = "auto"
    """`fused`: this project's layers, which read and send less (`gpt_bigcode` with one key/value head and tied
    embeddings, without LoRA); `mcore`: Megatron-core's; `auto`: fused where possible."""
    tensor_transport: Literal["auto", "peer", "collective"] = "auto"
    """How tensor ranks exchange activations under `parallel.sequence` with the fused layers: `peer` (copies between
    GPUs of one machine, overlapped with matrix products), `collective` (NCCL, gloo), or `auto`: peer where possible."""
    attention: Literal["auto", "flash4", "te", "torch", "unfused"] = "auto"
    """`te` (Transformer Engine), `flash4` (FlashAttention-4 with `.[flash4]`: Hopper and newer, bf16, no dropout;
    bitwise repeatable with `system.deterministic` alone), `torch` (torch's flash attention: bf16, no dropout), or
    `unfused`. `auto` takes the fastest available one and logs its name: with the fused layers FlashAttention-4, then
    Transformer Engine's, then torch's. On a GPU, unfused attention runs only when set explicitly."""
    mlp: Literal["auto", "quack", "plain"] = "auto"
    """Matrix products of the fused layers' MLP, together with gelu: `quack` (QuACK's kernels with `.[flash4]`: Hopper,
    bf16), `plain` (cuBLAS through Transformer Engine or torch), or `auto`: QuACK's if a check at the start passes."""
    cross_entropy: Literal["auto", "reference", "fused", "te"] = "auto"
    """Loss of Megatron-core's layers: `reference` (fp32), `fused` (this project's kernel), `te` (Transformer Engine's),
    or `auto`: fused on GPUs."""
    overlap: bool = True
    """GPU: overlap gradient reduction and parameter gathering with compute."""
    deterministic: bool = False
    """GPU: bitwise repeatable from run to run; slower."""
    preflight: Literal["auto", "stop", "warn", "none"] = "auto"
    """Check every node before the model is built (docs/faults.md) and, if one is bad, `stop` or `warn`; `auto` stops on
    GPUs and warns on a CPU; `none` skips the check."""
    timeout_minutes: PositiveFloat = 10.0
    """A rank without progress for this long counts as hung: all ranks write their stacks and exit with code 76
    (docs/faults.md). Must exceed the longest step."""
    wall_minutes: PositiveFloat | None = None
    """Wall-clock limit of one start: save and exit with code 75 before it ends. A SLURM job's time limit always counts
    as well."""
    reserve_minutes: PositiveFloat = 2.0
    """Time reserved for saving before the limit; at most a tenth of the limit, at least three steps and two saves."""
