"""Functions of one variable with their first and second derivative.

The functions of distances in ``m3gnet_basis.py`` are written for tensors. Given a :class:`Jet` in
place of the distances, the same lines give values, slopes and bends, by the rules for sums,
products, powers, sine and cosine (Taylor arithmetic; Griewank and Walther, Evaluating Derivatives,
chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Jet:
    """Values of a function, and its derivatives by the variable.

    Attributes
    ----------
    value, slope, bend : Tensor, all of one shape
        The function, its first and its second derivative.
    """

    value: torch.Tensor
    slope: torch.Tensor
    bend: torch.Tensor

    @classmethod
    def variable(cls, value: torch.Tensor) -> Jet:
        """Return the variable itself."""
        return cls(value, torch.ones_like(value), torch.zeros_like(value))

    def __add__(self, other: Any) -> Jet:
        if isinstance(other, Jet):
            return self._linear(torch.add, other)
        return Jet(self.value + other, self.slope, self.bend)

    def __sub__(self, other: Any) -> Jet:
        return self + -1 * other

    def __rsub__(self, other: Any) -> Jet:
        return self * -1 + other

    def __mul__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.value * other, self.slope * other, self.bend * other)
        bend = self.bend * other.value + 2 * self.slope * other.slope + self.value * other.bend
        slope = self.slope * other.value + self.value * other.slope
        return Jet(self.value * other.value, slope, bend)

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: Any) -> Jet:
        return self * (other**-1)

    def __pow__(self, power: int) -> Jet:
        slope = power * self.value ** (power - 1)
        return self._through(
            self.value**power, slope, power * (power - 1) * self.value ** (power - 2)
        )

    def __matmul__(self, matrix: torch.Tensor) -> Jet:
        return Jet(self.value @ matrix, self.slope @ matrix, self.bend @ matrix)

    def __getitem__(self, index: Any) -> Jet:
        return Jet(self.value[index], self.slope[index], self.bend[index])

    def unbind(self, dim: int) -> list[Jet]:
        """Return the slices along a dimension."""
        slices = (part.unbind(dim) for part in (self.value, self.slope, self.bend))
        return [Jet(*parts) for parts in zip(*slices, strict=True)]

    def clamp(self, *, min: float) -> Jet:  # noqa: A002 (the name that torch has for it)
        """Return the function where it is above ``min``, and this elsewhere."""
        inside = self.value > min
        return Jet(self.value.clamp(min=min), self.slope * inside, self.bend * inside)

    def _linear(self, function: Callable[..., torch.Tensor], other: Jet) -> Jet:
        return Jet(
            function(self.value, other.value),
            function(self.slope, other.slope),
            function(self.bend, other.bend),
        )

    def _through(self, value: torch.Tensor, slope: torch.Tensor, bend: torch.Tensor) -> Jet:
        """Return a function of this one, by its value and derivatives there."""
        return Jet(value, slope * self.slope, bend * self.slope**2 + slope * self.bend)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _OF_TORCH[function](*args, **(kwargs or {}))


def _sin(x: Jet) -> Jet:
    value = torch.sin(x.value)
    return x._through(value, torch.cos(x.value), -value)


def _cos(x: Jet) -> Jet:
    value = torch.cos(x.value)
    return x._through(value, -torch.sin(x.value), -value)


def _cat(jets: Sequence[Jet], dim: int) -> Jet:
    return Jet(
        torch.cat([jet.value for jet in jets], dim),
        torch.cat([jet.slope for jet in jets], dim),
        torch.cat([jet.bend for jet in jets], dim),
    )


def _product(a: Any, b: Any) -> Any:
    return b * a


# What torch's own functions do with a jet, and products whose left side is a tensor.
_OF_TORCH: dict[Callable[..., Any], Callable[..., Jet]] = {
    torch.sin: _sin,
    torch.cos: _cos,
    torch.cat: _cat,
    torch.Tensor.mul: _product,
    torch.Tensor.__mul__: _product,
}
