"""What ``--help`` says of the commands, and which settings those take that do not take all."""

from __future__ import annotations

from hpcbench.config_loading import DEFAULT_FILE

DESCRIPTION = """\
Phonons and stability verdicts of very many crystals.

  hpcbench run crystals/ --out store.h5          compute; the same again goes on
  srun -n 32 python -m hpcbench run ...          one MPI rank per GPU
  hpcbench plan crystals/                        how long that will take
  hpcbench status                                how far it has come
  hpcbench show NAME                             one crystal, its bands drawn
  hpcbench report                                tables and figures as one HTML file
  hpcbench verify                                is the store what was written?
"""

EPILOG = """\
exit codes: 0 done, 1 some crystals failed, 2 wrong use, 3 wrong environment,
75 stopped before the end: give the same command again
"""

RUN_DESCRIPTION = """\
Relax crystals, compute their phonons, and write verdicts, force constants and bands
into one HDF5 store.

SOURCE is a folder (searched recursively), a file, a pattern, a .zip or .tar(.gz), or a
list of such in a .txt file. Files may be CIF, POSCAR, extended XYZ, pymatgen JSON, an ASE
database, phonopy.yaml, or what generators write: .pt files of arrays (CDVAE, DiffCSP,
CrystalFlow, FlowMM), and CSV tables with structures or Wyckoff positions. A manifest.toml
with tables [[generators]] (name, files) says who wrote what: the report compares them,
with duplicates and known crystals told apart (--unique, --against).

What lies in a folder is taken by its content, links to folders are followed, and what is
left out is counted by its kind: tables, metrics, stores and exports of this program, and
of MatterGen's results the trajectories and the second copy. Name a file itself to read it.

A run that was killed is continued by the same command; crystals that are finished are
not computed again.
"""

RUN_EPILOG = f"""\
Settings may also stand in a TOML file (--config; {DEFAULT_FILE} of the working folder where
no SOURCE is given), with underscores for dashes, and in environment variables
(HPCBENCH_MAX_STEPS for --max-steps). Flags win over the environment, the environment over
the file.

examples:
  hpcbench run generated/ --model mattersim-v1.0.0-5M --out generated.h5
  hpcbench run manifest.toml --unique --sample 4000 --against mp_20.csv
  hpcbench run POSCAR --relax none --supercell 3 3 3 --dtype float64
  srun -n 32 python -m hpcbench run list.txt --protocol phononbench --out bench.h5
"""


PLAN_DESCRIPTION = """\
Predict rank-hours, wall time, memory and the size of the store, before anything runs. Takes
SOURCE and settings as `hpcbench run` does; reads the crystals, loads no potential.

How fast a potential is on a device is learnt from runs (in ~/.cache/hpcbench/rates.json) and
guessed before the first one. What the store has already is left out.
"""


IMPORT_DESCRIPTION = """\
Make a store of phonons that others computed: the folders that PhononBench's scripts write
(YAML with force constants, relaxed CIF, Lable.txt), and phonopy's YAML files, compressed or
not, with force constants or forces in them or beside them (force_constants.hdf5,
FORCE_CONSTANTS, FORCE_SETS). Spectra, verdicts and thermal properties are computed as in a run.

Where there are PhononBench's labels, the protocol is phononbench if none is given, and the
labels are compared with the verdicts. A folder that `hpcbench export` wrote brings its settings
along. Born charges and dielectric tensors, in the files or in BORN beside them, are applied
(non-analytic correction by Gonze and Lee); a second row, ID:without-nac, is without them.
"""

REANALYSE_DESCRIPTION = """\
Compute spectra, verdicts and thermal properties of a store again from its force constants, with
other meshes, paths, criteria or temperatures; no potential is needed. They are written into a
store of their own beside it (NAME.again.h5), which all commands take: hpcbench diff shows which
verdicts changed. Settings that are not given stay as they are in the store.

A reanalysis that was killed is continued by the same command. Ranks share the work:
  srun -n 32 python -m hpcbench reanalyse store.h5 --mesh 75
"""
