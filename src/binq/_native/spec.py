"""What compiled code tells of a format: a row of the table in formats.h."""

from typing import NamedTuple


class FormatSpec(NamedTuple):
    """One format, as kernels know it.

    - number: by which compiled code knows it
    - bits: of a stored code
    - planes: bit planes side by side; 1 for whole codes
    - row_bytes: adjacent bytes of one row: 1 for planes, 4 for whole codes
    - even: whether levels are one step apart, so that codes are rounded quotients
    - zero_kinds: what may say where zero lies beside nothing, the default first
    - methods: the rules that choose scales, the default first
    - largest: the largest magnitude of an integer that multiplies a scale
    - levels: what each stored code stands for, in units of the scale
    - group_size, scale_dtype: what is quantized to where nothing else is said
    - halves: whether levels are twice the numbers that powers of two as scales are made for
    - activation_levels: the largest integer for an activation, by mode
    """

    number: int
    name: str
    bits: int
    planes: int
    row_bytes: int
    even: bool
    zero_kinds: tuple[str, ...]
    methods: tuple[str, ...]
    largest: int
    levels: tuple[int, ...]
    group_size: int
    scale_dtype: str
    halves: bool
    activation_levels: dict[str, int]
