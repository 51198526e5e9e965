"""Values that pass between the parts of an evaluation: samples and verdicts."""

from dataclasses import dataclass
from enum import StrEnum

LANGUAGES = ("python", "js", "java", "go", "cpp", "rust")


class Kind(StrEnum):
    """How a program ended. Only ``PASSED`` counts; ``INFRASTRUCTURE`` is retried and never counted as a failure."""

    PASSED = "passed"
    WRONG = "wrong"
    EXCEPTION = "exception"
    COMPILE_ERROR = "compile_error"
    CPU_LIMIT = "cpu_limit"
    WALL_LIMIT = "wall_limit"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    TAMPERED = "tampered"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True)
class Verdict:
    """Result of one program.

    Attributes:
        kind: how it ended.
        level: 2 where the program cannot forge it, 1 where it could with knowledge of the protocol.
        detail: printable words about the end, at most 2,000 characters.
        compile_cpu_s: CPU seconds of compilation inside the sandbox; ``run_cpu_s`` of the run, ``wall_s`` of both.
        cached: whether it was taken from the cache.
    """

    kind: Kind
    level: int
    detail: str = ""
    compile_cpu_s: float = 0.0
    run_cpu_s: float = 0.0
    wall_s: float = 0.0
    cached: bool = False


@dataclass(frozen=True)
class Sample:
    """One generation of a model.

    Attributes:
        task: name of the task; ``problem``: number of the row, from 0; ``sample``: number among its samples, from 0.
        text: what was generated after the prompt, whole.
        tokens: number of generated tokens.
        stop: why generation ended: ``eos``, ``stop word``, ``syntax`` or ``length``.
        prompt_digest: digest of the prompt that was sent.
    """

    task: str
    problem: int
    sample: int
    text: str
    tokens: int
    stop: str
    prompt_digest: str
