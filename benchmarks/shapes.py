"""The layers that are timed: their names, their sizes, and what was made smaller."""

from __future__ import annotations

import dataclasses

LAYOUTS = ("contiguous", "channels_last")
CONVOLUTIONS = ("conv", "conv_group_norm", "periodic_conv")


@dataclasses.dataclass(frozen=True)
class Scale:
    """What the sizes of a row are divided by, because time or memory ask for it; the kernel stays."""

    rows: int = 1
    columns: int = 1
    channels: int = 1

    def __str__(self) -> str:
        parts = (("H", self.rows), ("W", self.columns), ("channels", self.channels))
        return " ".join(f"{name}/{factor}" for name, factor in parts if factor > 1) or "full"


@dataclasses.dataclass(frozen=True)
class Shape:
    """One layer on one grid. `rows` and `columns` are those of the whole grid, `times` a third spatial dimension.

    `channels_last_scale` is that of channels_last where it is another: of kernels of 16 and 32 rows, for whose weight's
    gradient PyTorch has its reference kernel alone there, 25 to 80 times slower than the contiguous one.
    """

    name: str
    layer: str  # conv, conv_transpose, conv_group_norm, group_norm, periodic_conv or interpolate
    channels: int
    outputs: int
    rows: int
    columns: int
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    times: int = 0
    time_kernel: int = 1
    groups: int = 1
    output_size: tuple[int, int] | None = None
    scale: Scale = Scale()
    channels_last_scale: Scale | None = None

    @property
    def dims(self) -> int:
        """Spatial dimensions."""
        return 3 if self.times else 2

    @property
    def cut_dim(self) -> int:
        """The cut dimension: rows."""
        return self.dims

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the whole input, without a batch."""
        times = (self.times,) if self.times else ()
        return (self.channels, *times, self.rows, self.columns)

    @property
    def output_rows(self) -> int:
        """Of the whole grid."""
        return _output(self, self.rows, self.output_size[0] if self.output_size else 0)

    @property
    def output_columns(self) -> int:
        return _output(self, self.columns, self.output_size[1] if self.output_size else 0)

    @property
    def output_times(self) -> int:
        """Of a layer with times; its kernel along them is as long as its stride."""
        if not self.times:
            return 0
        return self.times * self.time_kernel if self.layer == "conv_transpose" else self.times // self.time_kernel

    def multiplications(self) -> int:
        """Of a convolution on the whole grid, forward."""
        if self.layer in ("group_norm", "interpolate"):
            return 0
        positions = self.rows * self.columns if self.layer == "conv_transpose" else 0
        positions = positions or self.output_rows * self.output_columns
        return self.channels * self.outputs * self.kernel**2 * self.time_kernel * positions

    def scaled(self, layout: str = "contiguous") -> Shape:
        """The sizes that are timed."""
        s = self.channels_last_scale if layout == "channels_last" and self.channels_last_scale else self.scale
        size = self.output_size
        return dataclasses.replace(
            self,
            rows=self.rows // s.rows,
            columns=self.columns // s.columns,
            channels=self.channels // s.channels,
            outputs=max(1, self.outputs // s.channels),
            output_size=size and (size[0] // s.rows, size[1] // s.columns),
            scale=s,
        )

    def smoke(self) -> Shape:
        """The same layer on a tiny grid, with an odd number of rows where the row has one."""
        rows = 4 * max(self.kernel, 4) + self.rows % 2
        columns = max(2 * self.kernel, 16)
        return dataclasses.replace(
            self,
            rows=rows,
            columns=columns,
            channels=min(self.channels, 8),
            outputs=min(self.outputs, 8),
            groups=min(self.groups, 4),
            output_size=self.output_size and (2 * rows - 1, 2 * columns),
            scale=Scale(),
        )


def _output(shape: Shape, size: int, given: int) -> int:
    if given:
        return given
    if shape.layer in ("group_norm", "periodic_conv"):
        return size
    if shape.layer == "conv_transpose":
        return (size - 1) * shape.stride - 2 * shape.padding + shape.kernel
    return (size + 2 * shape.padding - shape.kernel) // shape.stride + 1


def _conv(name: str, channels: int, outputs: int, rows: int, columns: int, k: int, s: int, p: int, **more) -> Shape:
    return Shape(name, "conv", channels, outputs, rows, columns, k, s, p, **more)


SHAPES = [
    _conv("Conv2d 64->64 k3, 360x720", 64, 64, 360, 720, 3, 1, 1),
    Shape(
        "Conv2d 128->128 k3 + GroupNorm(128,128), 480x720",
        *("conv_group_norm", 128, 128, 480, 720, 3, 1, 1),
        groups=128,
        scale=Scale(columns=4),
    ),
    _conv("Conv2d 74->64 k4 s2 p1, 960x1440", 74, 64, 960, 1440, 4, 2, 1, scale=Scale(columns=4)),
    _conv("Conv2d 74->32 k8 s2 p3, 960x1440", 74, 32, 960, 1440, 8, 2, 3, scale=Scale(columns=4)),
    _conv(
        *("Conv2d 74->16 k16 s2 p7, 960x1440", 74, 16, 960, 1440, 16, 2, 7),
        scale=Scale(2, 2),
        channels_last_scale=Scale(1, 32, 4),
    ),
    _conv(
        *("Conv2d 74->16 k32 s2 p15, 960x1440", 74, 16, 960, 1440, 32, 2, 15),
        scale=Scale(2, 2),
        channels_last_scale=Scale(1, 32, 4),
    ),
    _conv("Conv2d 512->512 k4 s2 p1, 120x180", 512, 512, 120, 180, 4, 2, 1),
    _conv("Conv2d 1024->2048 k3, 60x90", 1024, 2048, 60, 90, 3, 1, 1, scale=Scale(channels=2)),
    _conv("Conv2d 1024->1024 k3 s2 p1, 160x320", 1024, 1024, 160, 320, 3, 2, 1, scale=Scale(1, 2, 2)),
    _conv(
        *("Conv3d 74->1024 k=s=(2,4,4), 2x640x1280", 74, 1024, 640, 1280, 4, 4, 0),
        times=2,
        time_kernel=2,
        scale=Scale(1, 8),
    ),
    Shape("ConvTranspose2d 512->71 k4 s2 p1, 144x192", "conv_transpose", 512, 71, 144, 192, 4, 2, 1),
    Shape(
        *("ConvTranspose3d 192->13 k=s=(2,4,4), 1x160x320", "conv_transpose", 192, 13, 160, 320, 4, 4, 0),
        times=1,
        time_kernel=2,
    ),
    Shape("PeriodicConv2d 64->64 k3, 288x384", "periodic_conv", 64, 64, 288, 384, 3, 1, 1),
    Shape("GroupNorm(32,512), 120x180", "group_norm", 512, 512, 120, 180, groups=32),
    Shape(
        "Interpolate bilinear 71 channels, 361x720->721x1440", "interpolate", 71, 71, 361, 720, output_size=(721, 1440)
    ),
    _conv("Conv2d 64->64 k3, 721x720", 64, 64, 721, 720, 3, 1, 1),
    Shape(
        "Conv2d 128->128 k3 + GroupNorm(128,128), 721x720",
        *("conv_group_norm", 128, 128, 721, 720, 3, 1, 1),
        groups=128,
        scale=Scale(columns=6),
    ),
    _conv("Conv2d 74->64 k4 s2 p1, 721x1440", 74, 64, 721, 1440, 4, 2, 1, scale=Scale(columns=2)),
]


def chosen(pattern: str, smoke: bool, full: bool, layout: str = "contiguous") -> list[Shape]:
    """The rows whose names hold `pattern`, in the sizes that are timed. ValueError where there is none."""
    shapes = [shape for shape in SHAPES if pattern in shape.name]
    if not shapes:
        raise ValueError(f"no row's name holds {pattern!r}; the rows: {', '.join(s.name for s in SHAPES)}")
    if smoke:
        return [shape.smoke() for shape in shapes]
    return [dataclasses.replace(s, scale=Scale()) if full else s.scaled(layout) for s in shapes]


def timed(pattern: str, smoke: bool, full: bool) -> list[tuple[Shape, str]]:
    """The same, each in each layout, in the order of the tables."""
    by_layout = [[(shape, layout) for shape in chosen(pattern, smoke, full, layout)] for layout in LAYOUTS]
    return [pair for row in zip(*by_layout, strict=True) for pair in row]
