"""Starts the ranks of a command: processes of this machine, over Gloo."""

from __future__ import annotations

import datetime
import os
import pathlib
import pickle
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing

from graticule.domain import Domain

_MINUTES = 30


def _rank(rank: int, size: int, folder: str, body: Callable[[Domain, Any], Any], options: Any) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(max((os.cpu_count() or 1) // size, 1))
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(minutes=_MINUTES),
    )
    result = body(Domain.of(dist.group.WORLD), options)
    if rank == 0:
        pathlib.Path(folder, "result").write_bytes(pickle.dumps(result))
    dist.destroy_process_group()


def on_ranks(size: int, body: Callable[[Domain, Any], Any], options: Any) -> Any:
    """What body(domain, options) returns on rank 0 of `size` processes; a rank that fails ends all."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (size, folder, body, options), nprocs=size)
        return pickle.loads(pathlib.Path(folder, "result").read_bytes())
