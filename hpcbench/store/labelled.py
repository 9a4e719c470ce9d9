"""A store as an xarray ``Dataset``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.errors import SetupError, UsageError
from hpcbench.store.phonon_fields import THERMAL

if TYPE_CHECKING:
    import xarray

    from hpcbench.store.fields import Field
    from hpcbench.store.reader import Store

_AXES = ("direction", "component")


def to_xarray(store: Store, ragged: Sequence[str]) -> xarray.Dataset:
    """Return a store as a ``Dataset``; see :meth:`hpcbench.store.reader.Store.to_xarray`.

    Parameters
    ----------
    store : Store
        The store.
    ragged : sequence of str
        Names of ragged arrays to take along.

    Raises
    ------
    SetupError
        If xarray is not installed.
    UsageError
        If there is no array of that name.
    """
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
        thermal = field.shape == (len(temperatures),) and field.name in THERMAL
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
