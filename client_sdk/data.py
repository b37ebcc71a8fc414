"""The participant's own examples, in whatever form they are kept.

    (images, labels)          two arrays
    tf.data.Dataset           of (example, label), in batches or one by one
    keras.utils.PyDataset     of batches (examples, labels)
    "photos/"                 a folder of images, in folders by label

`read` makes `Examples` of them: how many there are, to the last one, and a way to walk over them.
Arrays and files are walked in an order that the caller's seed decides. A dataset is walked in its
own order, and never held: it may be larger than the memory. Who needs another order shuffles it,
as with `model.fit`.

Everything here is raw, as the model's input specification has it before scaling, and stays on
this machine. Like `wire`, it needs no Keras.
"""

from __future__ import annotations

import logging
import os
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from client_sdk import photo, wire
from client_sdk.errors import ParticipantError
from client_sdk.folder import ImageFolder
from client_sdk.folder import read as read_photo
from client_sdk.wire import InputSpec

log = logging.getLogger("client_sdk")

Batch = tuple[np.ndarray, np.ndarray]
Skipped = tuple[Path, str]

PHOTOS_LIMIT: Final = 1 << 30  # bytes of decoded photos; those of a larger folder are read anew
_BATCH: Final = 256  # examples in a step of a walk that only looks
_DECODERS: Final = 4  # threads; Pillow lets go of Python while it decodes
_LISTED: Final = 5  # broken photos that are logged one by one


class TrainingDataRefused(ParticipantError):
    """The participant's own data do not fit the model."""


class Card(Protocol):
    """What a model says of itself; `client_sdk.protocol.ModelCard` is one."""

    @property
    def document(self) -> Mapping[str, Any]:
        """The model document, with `input_spec` and `labels`."""


def read(given: Any, card: Card) -> Examples:
    """Examples for a model.

    Args:
        given: two arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset`, the path of a folder
            of images by label, or what this gave before: then only photos that are new are read.
        card: the model that they are for.

    Raises:
        TrainingDataRefused: for anything else, and for what the model cannot take.

    Example:
        >>> examples = read((np.zeros((10, 3)), np.zeros(10)), card)
        >>> len(examples), examples.skipped
        (10, [])
    """
    spec = InputSpec.from_json(card.document["input_spec"])
    return read_for(given, spec, card.document.get("labels") or [])


def read_for(given: Any, spec: InputSpec, labels: Sequence[str]) -> Examples:
    """What `read` does, for a model that is told by its inputs and labels."""
    if isinstance(given, Examples):
        return given.again(spec, labels)
    if isinstance(given, (str, os.PathLike)):
        return FolderExamples(Path(given), spec, labels)
    if isinstance(given, (tuple, list)):
        return ArrayExamples(*_pair(given))
    if _is_a(given, "tensorflow", "data.Dataset"):
        return TensorFlowExamples(given, spec)
    if _is_a(given, "keras", "utils.PyDataset"):
        return PyDatasetExamples(given)
    raise TrainingDataRefused(
        "Expected (examples, labels) as arrays, a tf.data.Dataset, a keras.utils.PyDataset or the "
        f"path of a folder of images. Received: {type(given).__name__}"
    )


class Walk(Protocol):
    """One pass over examples."""

    def take(self, count: int) -> Batch | None:
        """The next examples and labels: `count` of them, fewer at the end, None after it."""


class Examples(ABC):
    """A participant's examples: how many there are, and passes over them.

    Attributes:
        skipped: what was left out, as (path, reason).
    """

    def __init__(self) -> None:
        self.skipped: list[Skipped] = []

    @abstractmethod
    def __len__(self) -> int:
        """How many examples there are, exactly."""

    @abstractmethod
    def walk(self, random: np.random.Generator | None = None) -> Walk:
        """A pass over all of them.

        Args:
            random: draws the order, where the examples have none of their own.
        """

    def again(self, spec: InputSpec, labels: Sequence[str]) -> Examples:
        """These examples, for a model that may be another one by now."""
        return self

    def part(self, keep: Callable[[np.ndarray], np.ndarray]) -> Examples:
        """Those of them that are wanted.

        Args:
            keep: says of examples (n, …) which, as bool (n,); the same each time it is asked.
        """
        return _Part(self, keep)

    def batches(self, size: int) -> Iterator[Batch]:
        """All examples in their own order, `size` at a time."""
        walk = self.walk()
        while (batch := walk.take(size)) is not None:
            yield batch

    def arrays(self) -> Batch:
        """All examples and labels at once, for a trainer that takes nothing else."""
        return self[0], self[1]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Examples, then labels, so that these pass for a pair of arrays."""
        return iter(self.arrays())

    def __getitem__(self, place: int) -> np.ndarray:
        found = [batch[place] for batch in self.batches(_BATCH)]
        return np.concatenate(found) if found else np.zeros((0,))


# --- Arrays -------------------------------------------------------------------------------------


class ArrayExamples(Examples):
    """Examples (n, *shape) and labels (n, …) that are in memory, or mapped into it."""

    def __init__(self, x: Any, y: Any) -> None:
        super().__init__()
        self.x, self.y = np.asarray(x), np.asarray(y)
        if self.x.ndim == 0 or len(self.x) == 0 or self.y.shape[:1] != self.x.shape[:1]:
            count = len(self.x) if self.x.ndim else 0
            raise TrainingDataRefused(
                "Expected at least one example, and a label for each. "
                f"Received: {count} examples and labels of shape {self.y.shape}"
            )

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> np.ndarray:
        return (self.x, self.y)[place]

    def walk(self, random: np.random.Generator | None = None) -> Walk:
        return _ArrayWalk(self.x, self.y, _order(len(self.x), random))

    def part(self, keep: Callable[[np.ndarray], np.ndarray]) -> Examples:
        starts = range(0, len(self.x), _BATCH)
        found = [keep(np.asarray(self.x[at : at + _BATCH])) for at in starts]
        return _PartOfArrays(self, np.flatnonzero(np.concatenate(found)))


class _PartOfArrays(Examples):
    """Some examples of arrays, which are not copied: they may be larger than the memory."""

    def __init__(self, whole: ArrayExamples, places: np.ndarray) -> None:
        super().__init__()
        self._whole, self._places = whole, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> np.ndarray:
        return self._whole[place][self._places]

    def walk(self, random: np.random.Generator | None = None) -> Walk:
        order = _order(len(self._places), random)
        places = self._places if order is None else self._places[order]
        return _ArrayWalk(self._whole.x, self._whole.y, places)


class _ArrayWalk:
    def __init__(self, x: np.ndarray, y: np.ndarray, order: np.ndarray | None) -> None:
        self._x, self._y, self._order, self._at = x, y, order, 0

    def take(self, count: int) -> Batch | None:
        if self._at >= (len(self._x) if self._order is None else len(self._order)):
            return None
        part: Any = slice(self._at, self._at + count)
        self._at += count
        if self._order is not None:
            part = self._order[part]
        return self._x[part], self._y[part]


def _order(count: int, random: np.random.Generator | None) -> np.ndarray | None:
    return None if random is None else random.permutation(count)


def _pair(given: Sequence[Any]) -> Sequence[Any]:
    if len(given) != 2:
        raise TrainingDataRefused(
            f"Expected (examples, labels). Received: a {type(given).__name__} of {len(given)}"
        )
    return given


# --- What is walked and never held ---------------------------------------------------------------


class _Stream(Examples):
    """Examples that come in pieces of any length, again in each pass.

    They are counted by walking over them once, the first time that somebody asks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._count: int | None = None

    @abstractmethod
    def pieces(self) -> Iterator[Batch]:
        """One pass, in pieces as they come."""

    def __len__(self) -> int:
        if self._count is None:
            self._count = self._counted()
        return self._count

    def _counted(self) -> int:
        count = 0
        for _, y in self.pieces():
            count += len(y)
            _expect_end(count <= wire.SAMPLES_LIMIT)
        return count

    def walk(self, random: np.random.Generator | None = None) -> Walk:
        return _StreamWalk(self.pieces())


class _StreamWalk:
    """Cuts pieces of any length into those that are asked for."""

    def __init__(self, pieces: Iterator[Batch]) -> None:
        self._pieces = pieces
        self._here: deque[Batch] = deque()
        self._count = 0

    def take(self, count: int) -> Batch | None:
        while self._count < count and (piece := next(self._pieces, None)) is not None:
            self._here.append(piece)
            self._count += len(piece[1])
        if not self._count:
            return None
        taken, wanted = [], min(count, self._count)
        self._count -= wanted
        while wanted > 0:
            x, y = self._here.popleft()
            if len(y) > wanted:
                self._here.appendleft((x[wanted:], y[wanted:]))
                x, y = x[:wanted], y[:wanted]
            taken.append((x, y))
            wanted -= len(y)
        return _joined([x for x, _ in taken]), _joined([y for _, y in taken])


class _Part(_Stream):
    """Some examples of others, asked for anew in each pass."""

    def __init__(self, whole: Examples, keep: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__()
        self._whole, self._keep = whole, keep
        self.skipped = whole.skipped

    def pieces(self) -> Iterator[Batch]:
        return self._chosen(self._whole.walk())

    def walk(self, random: np.random.Generator | None = None) -> Walk:
        return _StreamWalk(self._chosen(self._whole.walk(random)))

    def _chosen(self, walk: Walk) -> Iterator[Batch]:
        while (batch := walk.take(_BATCH)) is not None:
            x, y = batch
            kept = self._keep(x)
            if kept.any():
                yield x[kept], y[kept]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    try:
        return np.concatenate(parts)
    except ValueError as error:  # batches of shapes that differ
        raise TrainingDataRefused(
            f"Expected examples of one shape. Received: {sorted({p.shape[1:] for p in parts})}"
        ) from error


class TensorFlowExamples(_Stream):
    """A `tf.data.Dataset` of (example, label), in batches or one by one."""

    def __init__(self, dataset: Any, spec: InputSpec) -> None:
        super().__init__()
        elements = dataset.element_spec
        if not isinstance(elements, (tuple, list)) or len(elements) != 2:
            raise TrainingDataRefused(
                f"Expected a dataset of (examples, labels). Received: {elements}"
            )
        cardinality = int(dataset.cardinality())
        _expect_end(cardinality != -1)
        shape = getattr(elements[0], "shape", None)
        single = shape is not None and shape.rank is not None and _is_single(shape, spec)
        self._dataset = dataset.batch(_BATCH) if single else dataset
        if single and cardinality >= 0:
            self._count = cardinality

    def pieces(self) -> Iterator[Batch]:
        for x, y in self._dataset.as_numpy_iterator():
            yield _piece(x, y)


def _is_single(shape: Any, spec: InputSpec) -> bool:
    """Whether a dataset's elements are examples rather than batches of them.

    A channel of length 1 may be missing, so (28, 28, 1) can be 28 rows or one image: a batch is
    what Keras expects, and has a length that the dataset does not tell.
    """
    lengths = tuple(shape.as_list())
    if _fits(lengths[1:], spec.shape) and lengths[:1] == (None,):
        return False
    shapes = [spec.shape, spec.shape[:-1]] if spec.shape[-1:] == (1,) else [spec.shape]
    return any(_fits(lengths, expected) for expected in shapes)


def _fits(lengths: tuple[int | None, ...], expected: tuple[int | None, ...]) -> bool:
    return len(lengths) == len(expected) and all(
        None in (have, want) or have == want for have, want in zip(lengths, expected, strict=True)
    )


class PyDatasetExamples(_Stream):
    """A `keras.utils.PyDataset`, with as many threads as it asks for."""

    def __init__(self, dataset: Any) -> None:
        super().__init__()
        self._dataset = dataset
        _expect_end(dataset.num_batches is not None)

    def pieces(self) -> Iterator[Batch]:
        dataset = self._dataset
        if hasattr(dataset, "on_epoch_begin"):
            dataset.on_epoch_begin()
        found = _ahead(dataset.__getitem__, range(dataset.num_batches), dataset.workers)
        for element in found:
            if not isinstance(element, (tuple, list)) or len(element) != 2:
                received = f"a {type(element).__name__}"
                raise TrainingDataRefused(
                    f"Expected batches of (examples, labels). Received: {received}"
                )
            yield _piece(*element)
        dataset.on_epoch_end()


def _piece(x: Any, y: Any) -> Batch:
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim == 0 or y.shape[:1] != x.shape[:1]:
        raise TrainingDataRefused(
            "Expected batches with a label for each example. "
            f"Received: shapes {x.shape} and {y.shape}"
        )
    return x, y


def _ahead(fetch: Callable[[Any], Any], items: Iterable[Any], threads: int) -> Iterator[Any]:
    """What `fetch` answers to each item, in order; fetched ahead where there are threads."""
    if threads < 2:
        yield from map(fetch, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Any] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(fetch, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # a pass may be left in the middle
            for future in waiting:
                future.cancel()


def _expect_end(holds: bool) -> None:
    if not holds:
        raise TrainingDataRefused(
            "Expected a dataset that ends, so that its examples can be counted; `dataset.take(n)` "
            "ends it. Received: one without an end"
        )


# --- A folder of images ---------------------------------------------------------------------------


class FolderExamples(_Stream):
    """Images in folders by label.

    Folders are matched to the model's labels by name. Other folders, broken photos and other
    files are skipped and named in `skipped`; where no folder is a label of the model, they are
    refused together, for then the labels are spelled otherwise and nothing would be learned.

    Decoded photos are kept from pass to pass while they take less than `PHOTOS_LIMIT`.
    """

    def __init__(
        self,
        path: Path,
        spec: InputSpec,
        labels: Sequence[str],
        kept: Mapping[tuple[Path, int, int], np.ndarray] | None = None,
        told: Sequence[Skipped] = (),
    ) -> None:
        super().__init__()
        self._told = told
        self._folder, self._spec, self._labels = ImageFolder(path), spec, tuple(labels)
        if not photo.takes_photos(spec):
            raise TrainingDataRefused(
                f"Expected a model of images, for a folder of them. Received: {list(spec.shape)}"
            )
        if not self._folder.path.is_dir():
            raise TrainingDataRefused(f"Expected a folder of images. Received: {path}")
        self._kept = dict(kept or {})
        self._files = self._looked_through()
        self._count = len(self._files)

    def again(self, spec: InputSpec, labels: Sequence[str]) -> Examples:
        same = (spec, tuple(labels)) == (self._spec, self._labels)
        kept = self._kept if same else None
        return FolderExamples(self._folder.path, spec, labels, kept, self.skipped)

    def walk(self, random: np.random.Generator | None = None) -> Walk:
        order = _order(len(self._files), random)
        files = self._files if order is None else [self._files[place] for place in order]
        return _StreamWalk(self._decoded(files))

    def pieces(self) -> Iterator[Batch]:
        return self._decoded(self._files)

    def _looked_through(self) -> list[tuple[Path, int]]:
        """The photos that can be used, with their class; each is decoded once to know it."""
        found, skipped = self._folder.examples(self._labels)
        if not found:
            raise TrainingDataRefused(_no_photos(self._folder, skipped))
        length = photo.empty_examples(self._spec)[:0]
        keep = len(found) * int(np.prod(length.shape[1:])) * length.itemsize <= PHOTOS_LIMIT
        before, self._kept = self._kept, {}
        good = []

        def look(file: tuple[Path, int]) -> tuple[Any, np.ndarray | str]:
            try:
                key = _key(file[0])
                seen = before.get(key)
                return key, self._open(file[0]) if seen is None else seen
            except (photo.PhotoRefused, OSError) as error:
                return None, str(error)

        for file, (key, seen) in zip(found, _ahead(look, found, _DECODERS), strict=True):
            if isinstance(seen, str):
                skipped.append((file[0], seen))
                continue
            good.append(file)
            if keep:
                self._kept[key] = seen
        self.skipped = skipped
        _tell([one for one in skipped if one not in self._told])
        if not good:
            raise TrainingDataRefused(_no_photos(self._folder, skipped))
        return good

    def _open(self, path: Path) -> np.ndarray:
        return photo.as_example(read_photo(path), self._spec)

    def _decoded(self, files: Sequence[tuple[Path, int]]) -> Iterator[Batch]:
        def one(file: tuple[Path, int]) -> np.ndarray:
            kept = self._kept.get(_key(file[0])) if self._kept else None
            return self._open(file[0]) if kept is None else kept

        try:
            threads = 1 if self._kept else _DECODERS
            for file, x in zip(files, _ahead(one, files, threads), strict=True):
                yield x[np.newaxis], np.array([file[1]])
        except (photo.PhotoRefused, OSError) as error:
            raise TrainingDataRefused(
                f"Expected the photos to stay as they were. Received: {error}"
            ) from error


def _key(path: Path) -> tuple[Path, int, int]:
    found = path.stat()
    return path, found.st_mtime_ns, found.st_size


def _no_photos(folder: ImageFolder, skipped: Sequence[Skipped]) -> str:
    reasons = "; ".join(f"{path.name}: {reason}" for path, reason in skipped[:_LISTED])
    more = f" and {len(skipped) - _LISTED} more" if len(skipped) > _LISTED else ""
    received = f"{reasons}{more}" if skipped else "no image in a folder of its label"
    return f"Expected photos in folders by label in {folder.path}. Received: {received}"


def _tell(skipped: Sequence[Skipped]) -> None:
    for path, reason in skipped[:_LISTED]:
        log.warning("skipped %s: %s", path, reason)
    if len(skipped) > _LISTED:
        log.warning("skipped %d more files", len(skipped) - _LISTED)


# --- Photos to be recognised ----------------------------------------------------------------------


def read_inputs(given: Any, spec: InputSpec) -> np.ndarray:
    """What is to be recognised as raw examples (n, *shape).

    Args:
        given: an array of raw examples, or photos as paths or as the bytes of their files: a list
            of them, or one.
        spec: what the model takes.

    Raises:
        TrainingDataRefused: for a photo that cannot be read, which is named.
    """
    if isinstance(given, (str, bytes, os.PathLike)):
        given = [given]
    if not isinstance(given, (list, tuple)) or not _are_photos(given):
        return np.asarray(given)
    found = []
    for place, one in enumerate(given):
        try:
            content = one if isinstance(one, bytes) else read_photo(Path(one))
            found.append(photo.as_example(content, spec))
        except (photo.PhotoRefused, OSError) as error:
            name = f"photo {place}" if isinstance(one, bytes) else str(one)
            raise TrainingDataRefused(f"{name}: {error}") from error
    return np.stack(found)


def _are_photos(given: Sequence[Any]) -> bool:
    return len(given) > 0 and all(isinstance(one, (str, bytes, os.PathLike)) for one in given)


def _is_a(given: Any, module: str, name: str) -> bool:
    """Whether it is of a class of a module that nobody need have imported."""
    kind: Any = sys.modules.get(module)
    for part in name.split("."):
        kind = getattr(kind, part, None)
    return isinstance(kind, type) and isinstance(given, kind)
