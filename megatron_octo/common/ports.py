"""Ports for the ranks of a run: a rule that needs no word between them, or a free port of this host."""

import socket

from megatron_octo.common.errors import OctoError

_FIRST, _JOBS, _END = 10_000, 20_000, 32_000  # clients get ports from 32768 on (ip_local_port_range)


def port_of_job(job: int) -> int:
    """Return the same port on every rank of a job, below the range from which the kernel gives ports to clients."""
    return _FIRST + job % _JOBS


def free_port_of_job(job: int) -> int:
    """Return the first free port of this host from :func:`port_of_job` on.

    Raises:
        OctoError: there is none.
    """
    for port in range(port_of_job(job), _END):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OctoError(f"no free port from {port_of_job(job)} to {_END} on this node", where=socket.gethostname())


def free_port() -> int:
    """Return a port of the loopback interface that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
