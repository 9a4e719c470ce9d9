"""A store as an xarray ``Dataset``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.errors import SetupError, UsageError

if TYPE_CHECKING:
    import xarray

    from hpcbench.store.fields import Field
    from hpcbench.store.reader import Store

_AXES = ("direction", "component")
_THERMAL = ("free_energy", "entropy", "heat_capacity")


def to_xarray(store: Store, ragged: Sequence[str]) -> xarray.Dataset:
    """See :meth:`hpcbench.store.reader.Store.to_xarray`."""
    try:
        import xarray
    except ImportError as error:
        raise SetupError("xarray is not installed: pip install xarray") from error
    schema = store.schema
    data = xarray.Dataset(coords={"id": store.ids}, attrs={"settings": str(store.settings)})
    temperatures = store.settings.get("temperatures", ())
    for field in schema.columns:
        if field.name == "id":
            continue
        thermal = field.shape == (len(temperatures),) and field.name in _THERMAL
        axes = ("temperature",) if thermal else _axes(field)
        attributes = {"units": field.unit, "long_name": field.meaning}
        data[field.name] = (("id", *axes), store.column(field.name), attributes)
    if temperatures:
        data = data.assign_coords(temperature=("temperature", list(temperatures), {"units": "K"}))
    known = {field.name: field for field in schema.ragged}
    for name in ragged:
        if name not in known:
            raise UsageError(f"no ragged array {name!r}: there are {', '.join(known)}")
        parts = [row[name] for row in store.rows((f"ragged/{name}",))]
        field = known[name]
        axes = (f"{name}_value", *_axes(field))
        attributes = {"units": field.unit, "long_name": field.meaning}
        values = np.concatenate(parts) if parts else np.zeros((0, *field.shape))
        data[name] = (axes, values, attributes)
        counts = np.array([len(part) for part in parts], dtype=np.int64)
        data[f"{name}_count"] = ("id", counts, {"sample_dimension": f"{name}_value"})
    return data


def _axes(field: Field) -> tuple[str, ...]:
    """Names of the axes of a value: of space, where they have three places."""
    return tuple(
        _AXES[axis] if length == 3 and axis < len(_AXES) else f"{field.name}_{axis}"
        for axis, length in enumerate(field.shape)
    )
