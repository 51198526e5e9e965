"""Runs megatron-core without a GPU; has no effect on a machine with one.

Megatron-core 0.19 names the device ``cuda`` throughout. Three replacements, none of which edits its sources, make that
mean the CPU:

1. ``torch.cuda`` functions that ask for the device, its streams or its memory;
2. one TorchFunctionMode that turns device literals into the CPU;
3. a tracker of random states that forks the CPU's generator (dropout under tensor parallelism).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CPU = torch.device("cpu")


def _is_cuda(device: Any) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


class _CudaMeansCpu(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # The optimizer sorts parameters by type name: 'torch.cuda.FloatTensor', ...
            return func(*args).replace("torch.", "torch.cuda.", 1)
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs = {**kwargs, "device": _CPU}
        elif func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], _CPU, *args[2:])
        return func(*args, **kwargs)


class _NoStream:
    """Replaces streams and events; waiting for them does nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None

    def __enter__(self) -> "_NoStream":
        return self

    def __exit__(self, *error: object) -> None:
        return None


def _replace_cuda_functions() -> None:
    def put(names: str, make: Callable[[], Any]) -> None:
        for name in names.split():  # a fresh object a name: torch._dynamo refuses aliases of torch functions
            setattr(torch.cuda, name, make())

    put("current_device", lambda: lambda: _CPU)
    put("set_device synchronize empty_cache reset_peak_memory_stats", lambda: lambda *args, **kwargs: None)
    put("current_stream default_stream", lambda: lambda *args, **kwargs: _NoStream())
    put("memory_allocated max_memory_allocated memory_reserved max_memory_reserved", lambda: lambda *a, **k: 0)
    put("manual_seed", lambda: lambda seed: torch.default_generator.manual_seed(seed))
    put("stream", lambda: lambda stream: contextlib.nullcontext())
    put("Stream Event", lambda: type("NoStream", (_NoStream,), {}))
    for module in (torch.cuda, torch.cuda.random):
        setattr(module, "get_rng_state", lambda device="cuda": torch.get_rng_state())  # noqa: B010
        setattr(module, "set_rng_state", lambda state, device="cuda": torch.set_rng_state(state))  # noqa: B010


def _replace_random_tracker() -> None:
    from megatron.core.tensor_parallel import random as mcore_random

    class CpuRngTracker(mcore_random.CudaRNGStatesTracker):
        def add(self, name: str, seed: int) -> None:
            if seed in self.seeds_ or name in self.states_:
                raise ValueError(f"random state {name!r} or seed {seed} exists already")
            self._is_initialized = True
            self.seeds_.add(seed)
            self.states_[name] = torch.Generator().manual_seed(seed).get_state()

        @contextlib.contextmanager
        def fork(self, name: str = mcore_random._MODEL_PARALLEL_RNG_TRACKER_NAME) -> Iterator[None]:
            outer = torch.get_rng_state()
            torch.set_rng_state(self.states_[name])
            try:
                yield
            finally:
                self.states_[name] = torch.get_rng_state()
                torch.set_rng_state(outer)

    mcore_random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
    # The class, not an object: megatron-core makes a new tracker whenever it seeds.
    mcore_random.CudaRNGStatesTracker = CpuRngTracker


_mode: _CudaMeansCpu | None = None


def install() -> None:
    """Install the replacements for the rest of the process; a second call does nothing."""
    global _mode
    if _mode is not None or torch.cuda.is_available():
        return
    _replace_cuda_functions()
    _replace_random_tracker()
    _mode = _CudaMeansCpu()
    _mode.__enter__()  # type: ignore[no-untyped-call]
