"""Export of a store in any format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.errors import StoreError
from hpcbench.interop.export_formats import FORMATS, TRAINING
from hpcbench.interop.frames import write_one_cif
from hpcbench.interop.training_recipe import Recipe
from hpcbench.named_functions import function_of
from hpcbench.outputs import folder_to_write, replacing, require_empty, settings_text

if TYPE_CHECKING:
    from hpcbench.interop.training_set import Summary
    from hpcbench.store.reader import Store


def export(store: Store, kind: str, path: Path, *, force: bool = False) -> int:
    """Write a store, or a selection of it, in a format of :data:`export_formats.FORMATS`.

    Crystals are read and written block by block; only the table is in memory as a whole.

    Parameters
    ----------
    store : Store
        The store.
    kind : str
        Name of the format.
    path : Path
        The file or folder to write.
    force : bool
        Whether to replace files that hpcbench did not write.

    Returns
    -------
    int
        The number of crystals written: all for the tables and PhononBench's labels, those with
        phonons for the others, those with forces for ``forces``, those in a part for ``training``.

    Raises
    ------
    UsageError
        If there is something at the path that must not be replaced.
    StoreError
        If the path cannot be written, or the store lacks data that the format needs.
    SetupError
        If a package is missing.
    """
    if kind == TRAINING:
        return export_training_set(store, path, Recipe(), force=force).crystals.total()
    form = FORMATS[kind]
    try:
        if kind == "cif" and path.suffix.lower() == ".cif":
            with replacing(path, force=force) as temporary:
                return write_one_cif(store, temporary)
        with (
            folder_to_write(path, settings_text(store.settings), force=force)
            if form.is_folder
            else replacing(path, force=force)
        ) as place:
            return int(function_of(form.writer)(store, place))
    except OSError as error:
        # h5py's errors have no strerror.
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def export_training_set(
    store: Store, path: Path, recipe: Recipe, *, force: bool = False
) -> Summary:
    """Write perturbed supercells of the crystals of a store, as training data for potentials.

    Parameters
    ----------
    store : Store
        The store.
    path : Path
        The folder to write: new or empty, since two sets in one folder would be mixed, and
        results of others may lie beside what an earlier export wrote.
    recipe : Recipe
        What is wanted.
    force : bool
        Whether to write into any folder.

    Raises
    ------
    UsageError
        If the path is no folder that may be written, or the store has no potential for the labels.
    StoreError
        If the folder cannot be written, or no crystal has a supercell of the wanted size.
    PotentialError
        If the potential cannot be loaded.
    """
    # This imports ASE and pymatgen.
    from hpcbench.interop.training_labels import potential_of
    from hpcbench.interop.training_set import write_training_set
    from hpcbench.interop.training_split import split_of

    if not force:
        require_empty(path)
    split = split_of(store, recipe)
    potential = None if recipe.unlabelled else potential_of(store)
    try:
        with folder_to_write(path, settings_text(store.settings), force=force) as folder:
            return write_training_set(store, folder, recipe, split, potential)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
