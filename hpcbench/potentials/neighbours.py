"""Neighbours in batches of periodic structures.

Everything is a fixed number of tensor operations for a whole batch, on the batch's device, in
double precision.

How neighbours are found: atoms that are close to each other form blocks of at most
``BLOCK_ATOMS``. For each block, all periodic images of the structure's atoms in the box that
reaches one cutoff beyond the block are listed; the squared distances of the block's atoms from
all of them are one small matrix product. A distance that is computed in vain costs a nanosecond
or two so, a pair of atoms that is written down first costs tens, which is why blocks are used
and not the linked cells of the textbook.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch

from hpcbench.potentials.structures import Structures

# MatterSim's tolerance on lengths: an edge is kept up to cutoff + tolerance.
LENGTH_TOLERANCE = 1e-8

# Atoms of a block, the rows of its matrix of distances. Measured: 12 to 24 are equally good.
BLOCK_ATOMS = 16
# How full blocks are meant to be: cells are cut into boxes of so many atoms on average, and
# boxes that hold more than a block are cut again.
BLOCK_FILLING = 0.7
# Distances of one chunk, 8 bytes each: the memory that a list takes, whatever the batch.
CHUNK_DISTANCES = {"cpu": 2**20, "cuda": 2**25}

# Images of one atom that the box around a cell may hold; ordinary crystals need tens.
MOST_IMAGES = 100_000

# Slack in fractional coordinates when images are listed: too many are listed rather than too
# few, since the distance decides.
FRACTIONAL_SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class NeighbourList:
    """All pairs of atoms of a batch within a cutoff, periodic images included.

    Attributes
    ----------
    edges : Tensor, shape (2, nedges), int64
        Centre and neighbour atom (indices in the batch), sorted by centre.
    offsets : Tensor, shape (nedges, 3), float64
        Lattice translation of the neighbour in lattice vectors (whole numbers), relative to the
        positions as given.
    counted : Tensor, shape (nstructures,), bool
        Which structures can have a list at all. Not those with numbers that are not finite, with
        atoms so far outside that nothing is left of their place in the cell, or with a cell so
        flat that ``MOST_IMAGES`` images of one atom are not enough: they have no edges here, so
        that one of them does not break a batch or fill the memory.
    """

    edges: torch.Tensor
    offsets: torch.Tensor
    counted: torch.Tensor

    @property
    def nedges(self) -> int:
        """Return the number of edges."""
        return self.edges.shape[1]


def neighbour_list(batch: Structures, cutoff: float) -> NeighbourList:
    """Find all pairs of atoms within a cutoff in every structure of a batch.

    Parameters
    ----------
    batch : Structures
        The structures.
    cutoff : float
        Longest distance, in A.

    Notes
    -----
    Cells may be of any shape and smaller than the cutoff: an atom's own images are among its
    neighbours, the atom itself is not. Two atoms at the same place are neighbours. The edges of
    one centre are sorted by neighbour, and do not depend on what else is in the batch.

    Structures that cannot be counted have no edges; see ``NeighbourList.counted``.
    """
    with torch.no_grad():
        atoms = _wrap(batch)
        radius = cutoff + LENGTH_TOLERANCE
        blocks = _blocks(batch, atoms, radius)
        found = [_within(batch, atoms, blocks.part(*c), radius) for c in _chunks(batch, blocks)]
        # Edges come as runs, one for each atom in the order of the blocks. Whole runs are put
        # in the order of atoms, which is cheaper than sorting edges.
        visited = blocks.atoms[blocks.real]
        lengths = torch.cat([part.counts for part in found])
        begin = torch.empty_like(visited).index_copy_(0, visited, _starts(lengths))
        counts = torch.empty_like(visited).index_copy_(0, visited, lengths)
        order = torch.repeat_interleave(begin - _starts(counts), counts)
        order += torch.arange(len(order), device=order.device)
        # Images are numbered within each chunk.
        first = accumulate((len(part.atoms) for part in found), initial=0)
        image = torch.cat([part.images + i for part, i in zip(found, first, strict=False)])
        image = image.index_select(0, order)
        edges = torch.empty(2, len(image), dtype=torch.int64, device=image.device)
        edges[0] = torch.repeat_interleave(counts)
        edges[1] = torch.cat([part.atoms for part in found]).index_select(0, image)
        offsets = torch.cat([part.offsets for part in found]).index_select(0, image)
        offsets += atoms.shifts.index_select(0, edges[0])
        return NeighbourList(edges, offsets, _countable(batch, atoms, radius))


def _countable(batch: Structures, atoms: _Wrapped, radius: float) -> torch.Tensor:
    # After wrapping, rounding puts an atom a little outside, but not half a cell.
    lost = ~((atoms.fractional - 0.5).abs() < 1).all(1)
    nlost = torch.zeros(len(batch), dtype=torch.int64, device=lost.device)
    nlost.index_add_(0, batch.structure_of_atom, lost.to(torch.int64))
    return (nlost == 0) & ((2 * radius / atoms.heights + 2).prod(1) <= MOST_IMAGES)


def edge_vectors(batch: Structures, neighbours: NeighbourList) -> torch.Tensor:
    """Compute the vectors from centre to neighbour.

    Parameters
    ----------
    batch : Structures
        The structures.
    neighbours : NeighbourList
        Theirs.

    Returns
    -------
    Tensor, shape (nedges, 3), float64
        In A.

    Notes
    -----
    They are differences of positions inside the cell, so that atoms far outside lose no
    precision. Gradients with respect to positions and cells pass.
    """
    atoms = _wrap(batch)
    centres, others = neighbours.edges
    wrapped = atoms.positions
    shifts = neighbours.offsets + atoms.shifts.index_select(0, others)
    shifts = shifts - atoms.shifts.index_select(0, centres)
    cells = batch.cells.index_select(0, batch.structure_of_atom.index_select(0, centres))
    vectors = wrapped.index_select(0, others) - wrapped.index_select(0, centres)
    return vectors + torch.bmm(shifts.unsqueeze(1), cells).squeeze(1)


@dataclass(frozen=True, eq=False)
class _Wrapped:
    """Atoms moved into their cells.

    ``positions`` (natoms, 3) in A, ``fractional`` (natoms, 3) the same in lattice vectors, and
    ``shifts`` (natoms, 3) the whole lattice vectors that were subtracted; ``heights``
    (nstructures, 3) are the distances in A between opposite faces of the cells, ``volumes``
    (nstructures,) their volumes in A^3.
    """

    positions: torch.Tensor
    fractional: torch.Tensor
    shifts: torch.Tensor
    heights: torch.Tensor
    volumes: torch.Tensor


def _wrap(batch: Structures) -> _Wrapped:
    with torch.no_grad():
        a, b, c = batch.cells.unbind(1)
        cross = torch.linalg.cross
        faces = torch.stack([cross(b, c), cross(c, a), cross(a, b)], dim=2)
        volumes = (a * faces[:, :, 0]).sum(1)
        # Not torch.linalg.inv: it raises an error if any cell of the batch has no volume.
        inverses = faces / volumes[:, None, None]
        heights = 1 / torch.linalg.vector_norm(inverses, dim=1)
        inverses = inverses.index_select(0, batch.structure_of_atom)
        shifts = torch.floor(_times(batch.positions, inverses))
    cells = batch.cells.index_select(0, batch.structure_of_atom)
    positions = batch.positions - _times(shifts, cells)
    with torch.no_grad():
        fractional = _times(positions, inverses)
    return _Wrapped(positions, fractional, shifts, heights, volumes.abs())


def _times(vectors: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Row vectors (n, 3) times matrices (n, 3, 3)."""
    return torch.bmm(vectors.unsqueeze(1), matrices).squeeze(1)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Groups of at most ``BLOCK_ATOMS`` atoms of one structure.

    Attributes
    ----------
    structure : Tensor, shape (nblocks,)
        Structure of the block.
    first_atom, natoms : Tensor, shape (nblocks,)
        The first of the atoms of this structure, and their number.
    atoms : Tensor, shape (nblocks, BLOCK_ATOMS)
        Its atoms; places that are not taken repeat its first atom.
    real : Tensor, shape (nblocks, BLOCK_ATOMS), bool
        Which places are taken.
    low, high : Tensor, shape (nblocks, 3)
        Corners, in lattice vectors, of the box that holds all that is within the cutoff.
    images : Tensor, shape (nblocks,)
        About how many images the box holds.
    """

    structure: torch.Tensor
    first_atom: torch.Tensor
    natoms: torch.Tensor
    atoms: torch.Tensor
    real: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    images: torch.Tensor

    def part(self, first: int, end: int) -> _Blocks:
        parts = (getattr(self, name)[first:end] for name in self.__dataclass_fields__)
        return _Blocks(*parts)


def _blocks(batch: Structures, atoms: _Wrapped, radius: float) -> _Blocks:
    """Blocks of atoms close to each other, those with the most images first."""
    device = batch.positions.device
    natoms = len(batch.positions)
    of_atom = batch.structure_of_atom
    sizes = torch.bincount(of_atom, minlength=len(batch))
    # Cells are cut into boxes, and atoms sorted by their box.
    edge = (BLOCK_ATOMS * BLOCK_FILLING * atoms.volumes / sizes) ** (1 / 3)
    boxes = torch.round(atoms.heights / edge[:, None])
    fine = _countable(batch, atoms, radius)
    boxes = torch.where((fine & (sizes > BLOCK_ATOMS))[:, None], boxes, 1.0).clamp(min=1)
    boxes = torch.minimum(boxes, sizes[:, None]).index_select(0, of_atom)
    # Where numbers are not finite there is one box.
    box = torch.floor(atoms.fractional * boxes).nan_to_num(0.0, posinf=0.0, neginf=0.0)
    box = torch.minimum(box.clamp(min=0), boxes - 1)
    inner = (box[:, 0] * boxes[:, 1] + box[:, 1]) * boxes[:, 2] + box[:, 2]
    key = inner.to(torch.int64) + of_atom * (boxes.prod(1).max().to(torch.int64) + 1)
    key, order = torch.sort(key, stable=True)
    # A block begins with every new box, and within a box after every BLOCK_ATOMS atoms.
    index = torch.arange(natoms, device=device)
    begin = torch.zeros(natoms, dtype=torch.int64, device=device)
    begin[1:] = torch.where(key[1:] != key[:-1], index[1:], 0)
    place = (index - begin.cummax(0).values) % BLOCK_ATOMS
    first = (place == 0).nonzero().squeeze(1)
    block = (place == 0).cumsum(0) - 1
    table = order[first][:, None].repeat(1, BLOCK_ATOMS)
    table[block, place] = order
    real = torch.zeros_like(table, dtype=torch.bool)
    real[block, place] = True

    structure = of_atom[table[:, 0]]
    inside = atoms.fractional.index_select(0, table.flatten()).view(*table.shape, 3)
    reach = (radius / atoms.heights + FRACTIONAL_SLACK).index_select(0, structure)
    # A box that is empty where there is nothing to be counted.
    reach = torch.where(fine[structure][:, None], reach, torch.nan)
    low, high = inside.amin(1) - reach, inside.amax(1) + reach
    natoms_around = sizes[structure]
    images = natoms_around * (high - low).clamp(min=1).prod(1)
    images = images.nan_to_num(0.0)
    # Blocks that need about the same number of columns follow each other.
    by_size = torch.argsort(images, descending=True, stable=True)
    first_atom = _starts(sizes)[structure]
    blocks = _Blocks(structure, first_atom, natoms_around, table, real, low, high, images)
    return _Blocks(*(getattr(blocks, name)[by_size] for name in blocks.__dataclass_fields__))


def _chunks(batch: Structures, blocks: _Blocks) -> Iterator[tuple[int, int]]:
    """Yield runs of blocks whose distances fit into a chunk, as first and end."""
    limit = CHUNK_DISTANCES.get(batch.positions.device.type, CHUNK_DISTANCES["cuda"])
    images = blocks.images.tolist()
    first = 0
    while first < len(images):
        end = first + max(1, int(limit / (BLOCK_ATOMS * max(images[first], 1))))
        yield first, min(end, len(images))
        first = end


@dataclass(frozen=True, eq=False)
class _Found:
    """Neighbours of the atoms of some blocks.

    Attributes
    ----------
    counts : Tensor, shape (natoms in these blocks,)
        Number of neighbours of each atom, by block and place in it.
    images : Tensor, shape (nedges,)
        The neighbours of all atoms, one atom after the other, as indices of images.
    atoms : Tensor, shape (nimages,)
        The atom of which this is an image.
    offsets : Tensor, shape (nimages, 3)
        The translation, in lattice vectors, from the atom's position as given to the image.
    """

    counts: torch.Tensor
    images: torch.Tensor
    atoms: torch.Tensor
    offsets: torch.Tensor


def _within(batch: Structures, atoms: _Wrapped, blocks: _Blocks, radius: float) -> _Found:
    """Return the neighbours of the atoms of these blocks within the radius."""
    device = batch.positions.device
    nblocks = len(blocks.structure)
    # Every block with every atom of its structure: how many images, along each axis?
    first_pair = _starts(blocks.natoms)
    block = torch.repeat_interleave(blocks.natoms)
    npairs = len(block)
    atom = torch.arange(npairs, device=device)
    atom += (blocks.first_atom - first_pair).index_select(0, block)
    fractional = atoms.fractional.index_select(0, atom)
    lowest = torch.ceil(blocks.low.index_select(0, block) - fractional)
    numbers = torch.floor(blocks.high.index_select(0, block) - fractional) - lowest + 1
    numbers.clamp_(min=0)
    images = numbers.prod(1).nan_to_num_(0.0).to(torch.int64)
    # Every block has a row of slots for its images; the longest decides how many.
    last = torch.cat([images.new_zeros(1), images.cumsum(0)])
    first_of_block = last.index_select(0, first_pair)
    used = last.index_select(0, first_pair + blocks.natoms) - first_of_block
    width = max(1, int(used.max()))
    row_of_slots = width * torch.arange(nblocks, device=device)
    first_slot = (row_of_slots - first_of_block).index_select(0, block) + last[:-1]

    # All images of all pairs, counted along the third axis first.
    pair = torch.repeat_interleave(images)
    nimages = torch.arange(len(pair), device=device)
    slot = nimages + (first_slot - last[:-1]).index_select(0, pair)
    rest = (nimages - last.index_select(0, pair)).to(torch.float64)
    line = numbers[:, 2]
    plane = (numbers[:, 1] * line).index_select(0, pair)
    line = line.index_select(0, pair)
    first = torch.floor(rest / plane)
    rest -= first * plane
    second = torch.floor(rest / line)
    rest -= second * line
    translations = torch.stack([first, second, rest], dim=1)
    translations += lowest.index_select(0, pair)
    slot_atom = torch.zeros(nblocks * width, dtype=torch.int64, device=device)
    slot_atom.index_copy_(0, slot, atom.index_select(0, pair))
    offsets = torch.zeros(nblocks * width, 3, dtype=torch.float64, device=device)
    offsets.index_copy_(0, slot, translations)

    # |x - y| <= r  is  x.y - y.y / 2 >= (x.x - r.r) / 2. The origin is in the block, so that
    # rounding errors follow the size of the block, not of the cell.
    origin = atoms.positions.index_select(0, blocks.atoms[:, 0])[:, None]
    x = atoms.positions.index_select(0, blocks.atoms.flatten()).view(nblocks, -1, 3) - origin
    least = ((x * x).sum(2, keepdim=True) - radius**2) / 2
    least.masked_fill_(~blocks.real[:, :, None], torch.inf)
    y = torch.bmm(offsets.view(nblocks, width, 3), batch.cells.index_select(0, blocks.structure))
    y += atoms.positions.index_select(0, slot_atom).view(nblocks, width, 3)
    y -= origin
    half = torch.linalg.vector_norm(y, dim=2).square_().mul_(-0.5)
    half.masked_fill_(torch.arange(width, device=device) >= used[:, None], -torch.inf)
    close = torch.baddbmm(half[:, None], x, y.transpose(1, 2)) >= least
    close = close.view(-1, width)

    # An atom is not its own neighbour: its image without translation is taken out.
    row = blocks.real.flatten().nonzero().squeeze(1)
    own = row // BLOCK_ATOMS
    centre = blocks.atoms.flatten().index_select(0, row)
    pair = first_pair[own] + centre - blocks.first_atom[own]
    steps, number = -lowest[pair], numbers[pair]
    position = (steps[:, 0] * number[:, 1] + steps[:, 1]) * number[:, 2] + steps[:, 2]
    # A structure that is not countable has no images: any slot will do.
    position = position.nan_to_num(0.0, posinf=0.0, neginf=0.0).to(torch.int64)
    itself = first_slot[pair] + position - row_of_slots[own]
    close[row, itself] = False

    rows, column = close.nonzero(as_tuple=True)
    column += torch.repeat_interleave(row_of_slots, BLOCK_ATOMS).index_select(0, rows)
    counts = torch.bincount(rows, minlength=len(close)).index_select(0, row)
    return _Found(counts, column, slot_atom, offsets - atoms.shifts.index_select(0, slot_atom))


def _starts(counts: torch.Tensor) -> torch.Tensor:
    """Return the starts of runs of these lengths that follow each other."""
    return counts.cumsum(0) - counts
