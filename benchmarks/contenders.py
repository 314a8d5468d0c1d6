"""Everybody who takes turns on a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.concatenation import all_rows, concatenated_layer, neighbours
from benchmarks.exactness import Reference
from benchmarks.modules import cut_layer, local_layer, serial_layer
from benchmarks.processes import Processes
from benchmarks.shapes import Shape
from benchmarks.turns import Contender

# Halo rows in the shard's own format: shown on one row, to tell what the copy costs from what the format costs.
KEPT_FORMAT_ROW = "Conv2d 64->64 k3, 360x720"


def memory_format(layout: str, dims: int) -> torch.memory_format:
    if layout == "contiguous":
        return torch.contiguous_format
    return torch.channels_last if dims == 2 else torch.channels_last_3d


def _own(whole: Tensor, dim: int, rows: tuple[int, int], layout: torch.memory_format) -> Tensor:
    return whole.narrow(dim, rows[0], rows[1] - rows[0]).contiguous(memory_format=layout).clone()


def cut_contender(shape: Shape, layout: str, p: Processes) -> Contender:
    """Graticule over MPI on any rows, checked against nothing: for what depends on no value."""
    module, form = serial_layer(shape), memory_format(layout, shape.dims)
    begin, end = all_rows(shape.rows, p.size)[p.rank]
    sizes = [1, *shape.sizes]
    sizes[shape.cut_dim] = end - begin
    x = torch.randn(sizes).contiguous(memory_format=form).requires_grad_()
    layer = cut_layer(module, shape, p.mpi)
    with torch.no_grad():
        gradient = torch.randn_like(layer(x)).contiguous(memory_format=form)
    return Contender(layer, x, gradient, list(module.parameters()))


def make_contenders(shape: Shape, layout: str, p: Processes) -> dict[str, Contender]:
    """Checked against the uncut layer, but for the local one, which is not the uncut layer. All ranks must call.

    Every rank makes the same whole tensors and keeps its rows; rank 0 keeps the whole for the serial layer too.
    """
    module, dim = serial_layer(shape), shape.cut_dim
    form = memory_format(layout, shape.dims)
    parameters = list(module.parameters())
    rows, outputs = all_rows(shape.rows, p.size)[p.rank], all_rows(shape.output_rows, p.size)[p.rank]
    torch.manual_seed(1)
    whole = torch.randn(1, *shape.sizes).contiguous(memory_format=form)
    x = _own(whole, dim, rows, form).requires_grad_()
    with torch.no_grad():
        whole_gradient = torch.randn_like(module(whole))
        gradient = _own(whole_gradient, dim, outputs, form)
        local = local_layer(module, outputs[1] - outputs[0])
        local_gradient = torch.randn_like(local(x))

    def over(domain: Any) -> Contender:
        return Contender(cut_layer(module, shape, domain), x, gradient, parameters)

    serial = Contender(module, whole.requires_grad_(), whole_gradient, parameters)
    reference = Reference(serial, rows, outputs, dim)
    around = neighbours(p.mpi.group_name, p.rank, p.size)
    checked = {"mpi": over(p.mpi), "gloo": over(p.gloo)}
    kinds = {"concat": False}
    if shape.name == KEPT_FORMAT_ROW and layout == "channels_last":
        kinds["concat_kept"] = True
    for name, keep in kinds.items():
        call = concatenated_layer(module, shape, around, keep)
        if call is not None:
            checked[name] = Contender(call, x, gradient, parameters)
    for name, contender in checked.items():
        reference.check(f"{shape.name} {layout} {name}", contender, p.mpi.group_name)

    alone = serial if p.rank == 0 else Contender(None, None, None, [])
    alone.threads, alone.alone = p.size, True
    return {
        "local": Contender(local, x, local_gradient, parameters),
        "null": Contender(local, x, local_gradient, parameters),
        "serial": alone,
        **checked,
    }
