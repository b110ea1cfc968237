"""What a method raises for its caller to act on, never for a user to see."""


class ScaleRange(Exception):  # noqa: N818
    """A scale or offset does not fit the type that was asked for: float32 holds it."""


class Nonfinite(Exception):  # noqa: N818
    """The weights hold inf or NaN."""
