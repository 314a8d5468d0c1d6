"""NetCDF-3 files, classic and 64-bit offset, as far as the tests' data need them: no record dimension."""

import pathlib
import struct
from typing import Any

import numpy as np

# https://docs.unidata.ucar.edu/nug/current/file_format_specifications.html
TYPES = {1: ">i1", 2: "S1", 3: ">i2", 4: ">i4", 5: ">f4", 6: ">f8"}
DIMENSION, VARIABLE, ATTRIBUTE = 10, 11, 12


class _Header:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 4

    def number(self, form: str = ">i") -> int:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def text(self) -> str:
        return self.padded(self.number()).decode()

    def padded(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        self.at += -(-size // 4) * 4
        return piece

    def entries(self, tag: int) -> range:
        """The numbers of a list's entries; an absent list has the tag 0."""
        found, count = self.number(), self.number()
        if found not in (0, tag):
            raise ValueError(f"expected a list of kind {tag}, got {found}")
        return range(count)

    def attributes(self) -> dict[str, Any]:
        result = {}
        for _ in self.entries(ATTRIBUTE):
            name, kind, count = self.text(), self.number(), self.number()
            raw = self.padded(count * np.dtype(TYPES[kind]).itemsize)
            result[name] = raw.decode() if kind == 2 else np.frombuffer(raw, TYPES[kind])[0]
        return result


def read_variable(path: pathlib.Path, wanted: str) -> np.ndarray:
    """A variable unpacked to float64: value * scale_factor + add_offset."""
    data = path.read_bytes()
    if data[:3] != b"CDF" or data[3] not in (1, 2):
        raise ValueError(f"{path} is no NetCDF-3 file")
    header = _Header(data)
    header.number()  # records
    lengths = [(header.text(), header.number())[1] for _ in header.entries(DIMENSION)]
    header.attributes()
    for _ in header.entries(VARIABLE):
        name = header.text()
        shape = [lengths[header.number()] for _ in range(header.number())]
        attributes, kind = header.attributes(), header.number()
        header.number()  # size
        begin = header.number(">q" if data[3] == 2 else ">i")
        if name == wanted:
            values = np.frombuffer(data, TYPES[kind], int(np.prod(shape)), begin).reshape(shape).astype(np.float64)
            return values * attributes.get("scale_factor", 1.0) + attributes.get("add_offset", 0.0)
    raise KeyError(wanted)
