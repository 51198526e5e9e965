"""Former import paths of modules that moved, kept for code that imports them. Not for use inside the library."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Sequence

_MOVED = {
    "errors": "common.errors",
    "files": "common.files",
    "config_model": "config.model",
    "data.indexed": "data.dataset.indexed",
    "data.manifest": "data.dataset.manifest",
    "data.fastpath": "data.text.fast_tokenizer",
    "data.tokenizer": "data.text.tokenizer",
    "data.formats": "data.text.formats",
    "data.stream": "data.row_stream",
    "checkpoint.layout": "checkpoint.directory",
    "model.mcore": "model.platform.mcore",
    "model.grid": "model.platform.grid",
    "training.samples": "runfiles.samples",
    "training.records": "runfiles.attempts",
    "training.rundir": "runfiles.run_directory",
    "training.lock": "runfiles.run_lock",
    "training.signals": "runfiles.signals",
    "training.device": "training.engine.device",
    "training.rendezvous": "training.supervision.rendezvous",
    "training.supervise": "training.supervision.error_policy",
    "training.watch": "training.supervision.rank_agent",
    # sbatch scripts that were submitted before the move run this one
    "cluster.guard": "cluster.job_guard",
}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds a former path as the module that took its place: the same object under both names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "megatron_octo" or name not in _MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, _Loader(f"{package}.{_MOVED[name]}"))


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, present: str):
        self.present = present

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        warnings.warn(f"{spec.name} is {self.present} now", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(self.present)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self.spec  # importing under the former name replaced it

    def get_source(self, fullname: str) -> str | None:
        spec = importlib.util.find_spec(self.present)
        assert spec and isinstance(spec.loader, importlib.abc.InspectLoader)
        return spec.loader.get_source(self.present)  # python -m takes the code from here


def install() -> None:
    """Let former paths be imported, once per process."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
