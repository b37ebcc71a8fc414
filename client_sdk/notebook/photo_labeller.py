"""The photo labeller in a notebook: the same screen as `fedclient photos`, from the same module.

    from client_sdk.notebook import Participant, PhotoLabeller

    PhotoLabeller(Participant.load())

What takes long happens in threads of the kernel: a cell is never held up, and a cell that runs
holds up nothing but the moment at which a tap is heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import anywidget
import traitlets

import client_sdk
from client_sdk.notebook.modules import css, esm
from client_sdk.participant import Participant
from client_sdk.photos import default_folder
from client_sdk.photos.gallery import Gallery
from client_sdk.photos.labeller import Labeller

_HOME = Path(client_sdk.__file__).parent
_AT_ONCE = 4  # messages that are worked on


class PhotoLabeller(anywidget.AnyWidget):
    """Take photos, see what the model says, label them, and train with them.

    The photos stay in a folder of the machine on which the kernel runs.

    Args:
        participant: who takes part.
        folder: of the photos by label; among the person's pictures when None.
        model: slug of the model; None for the one of the enrolment.
        options: more of `Participant.participate`.

    Example:
        >>> labeller = PhotoLabeller(alice, photos)
        >>> labeller.state["total"]
        0
        >>> labeller.close()
    """

    _esm = esm(_HOME / "photos" / "labeller.js")
    _css = css(_HOME / "drawings" / "widget.css", _HOME / "photos" / "labeller.css")

    state = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        participant: Participant,
        folder: Path | str | None = None,
        *,
        model: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        home = folder if folder is not None else default_folder(participant)
        self.labeller = Labeller(participant, Gallery(home), model=model, options=options)
        self._workers = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="photo-labeller")
        self._telling = Lock()
        self._unsubscribe = self.labeller.subscribe(self._tell)
        self.on_msg(self._hear)
        self._tell()
        self.labeller.start()

    def close(self) -> None:
        """Take it off the page, and give back what is under way."""
        if hasattr(self, "_workers"):  # the last widget may be closed before it was begun
            self._unsubscribe()
            self._workers.shutdown(wait=False, cancel_futures=True)
            self.labeller.close()
        super().close()

    def _tell(self) -> None:
        with self._telling:  # so that the last one told is the newest
            self.state = self.labeller.state()

    def _hear(self, _: Any, content: Any, buffers: Sequence[Any]) -> None:
        held = [bytes(one) for one in buffers or ()]
        self._workers.submit(self._answer, content, held)

    def _answer(self, content: Any, buffers: Sequence[bytes]) -> None:
        answer, back = self.labeller.handle(content, buffers)
        about = content.get("re") if isinstance(content, dict) else None
        self.send({**answer, "re": about}, buffers=back)
