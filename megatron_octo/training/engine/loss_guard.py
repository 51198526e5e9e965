"""Decides before an update whether a step's loss and gradients may change the weights."""

import math
from collections import deque
from typing import Any

from megatron_octo.common.errors import OctoError
from megatron_octo.config.sections import GuardConfig
from megatron_octo.runfiles.attempts import GUARD


class GuardError(OctoError):
    """Raised before a bad step changes anything."""

    kind = GUARD


class Guard:
    """Judges numbers that all ranks share, so that all decide alike.

    A spike is a loss or gradient norm above mean + ``sigmas`` standard deviations of the last ``window`` steps that
    were not skipped, once there are half as many (the rule of OLMo's SkipStepOptimizer).

    Args:
        config: thresholds and actions.
        state: result of :meth:`state` in the checkpoint that is resumed.

    Attributes:
        skipped: number of steps skipped in a row.
    """

    def __init__(self, config: GuardConfig, state: dict[str, Any] | None = None):
        self._config = config
        state = state or {"losses": [], "norms": [], "skipped": 0}
        self._losses = deque((float(value) for value in state["losses"]), maxlen=config.window)
        self._norms = deque((float(value) for value in state["norms"]), maxlen=config.window)
        self.skipped = int(state["skipped"])

    def state(self) -> dict[str, Any]:
        """Return JSON that leads to the same decisions after a restart; empty if none depends on the past."""
        if self._config.spike == "ignore" and not self.skipped:
            return {}
        return {"losses": list(self._losses), "norms": list(self._norms), "skipped": self.skipped}

    def judge(self, loss: float, grad_norm: float) -> tuple[str, str] | None:
        """Return (``skip`` or ``stop``, reason) for a bad step, or None and add it to the window."""
        action, why = self._look(loss, grad_norm)
        if why is None:
            self.skipped = 0
            if self._config.spike != "ignore":
                self._losses.append(loss)
                self._norms.append(grad_norm)
            return None
        if action == "skip":
            self.skipped += 1
            if self.skipped > self._config.max_skips:
                return "stop", f"{why}; {self._config.max_skips} steps in a row were skipped already"
        return action, why

    def _look(self, loss: float, grad_norm: float) -> tuple[str, str | None]:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return self._config.nonfinite, f"loss {loss}, gradient norm {grad_norm}"
        if self._config.spike != "ignore" and 2 * len(self._losses) >= max(4, self._config.window):
            for name, value, past in (
                ("loss", loss, self._losses),
                ("gradient norm", grad_norm, self._norms),
            ):
                mean = math.fsum(past) / len(past)
                spread = math.sqrt(math.fsum((one - mean) ** 2 for one in past) / len(past))
                bound = mean + self._config.sigmas * spread
                if value > bound:
                    text = f"{name} {value:.4g} is above {bound:.4g}, {self._config.sigmas:g} standard deviations"
                    return self._config.spike, f"{text} over the mean of the last {len(past)} steps"
        return "", None
