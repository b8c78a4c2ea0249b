"""`harvib predict`: from what was named to what is told."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harvib.errors import InputError
from harvib.predict.inputs import Camera, Files, Live, inputs_of
from harvib.predict.output import Echo, Json, Output, Text
from harvib.predict.pace import pace_of
from harvib.predict.predictor import Predictor
from harvib.predict.results import Clip, Failed, Step
from harvib.predict.settings import PredictSettings
from harvib.streaming import MOST_ROWS

if TYPE_CHECKING:
    from harvib.predict.live import LiveSource
    from harvib.predict.overlay import Overlay

_MANY = 10
"""Videos from which on their number is told as they are done."""


def predict(
    model: Path,
    arguments: Sequence[str],
    settings: PredictSettings,
    device: str,
    as_json: bool,
    out: Echo,
    err: Echo,
) -> int:
    """Predict all that `arguments` name, in their order; how many of them failed.

    Raises InputError for wrong use, and where nothing that is named exists.
    """
    inputs = inputs_of(arguments)
    files = inputs.videos if isinstance(inputs, Files) else ()
    if isinstance(inputs, Files):
        settings.require_no_live_options()
    elif isinstance(inputs, Camera) and not (settings.stream or settings.frames or settings.seconds):
        raise InputError(f"{inputs.name}: has no end: say --seconds or --frames, or --stream")
    overlay = None
    if settings.overlay:
        from harvib.predict.overlay import overlay_path  # noqa: PLC0415 - FFmpeg and fonts

        if len(files) > 1:
            raise InputError(f"--overlay {settings.overlay}: of one video; {len(files):,} are named")
        overlay = overlay_path(settings.overlay, [video for video in files if isinstance(video, Path)])
    live_steps = settings.stream and not isinstance(inputs, Files)
    # Of frames that come one by one, a full batch would be mostly padding.
    predictor = Predictor(model, settings.weights or None, device, 1 if live_steps else 32)
    output = (Json if as_json else Text)(predictor.classes, settings.topk, out, err)
    job = _Job(predictor, settings, output, overlay)
    for note in (*predictor.notes, *(inputs.notes if isinstance(inputs, Files) else ())):
        output.note(note)
    if isinstance(inputs, Files):
        return job.files(inputs.videos)
    return job.stream(inputs) if settings.stream else job.recorded(inputs)


class _Job:
    def __init__(
        self, predictor: Predictor, settings: PredictSettings, output: Output, overlay: Path | None
    ) -> None:
        self.predictor, self.settings, self.output, self.overlay = predictor, settings, output, overlay

    def files(self, videos: Sequence[Path | Failed]) -> int:
        """One video after the other; how many failed."""
        from tqdm import tqdm  # noqa: PLC0415 - for many files only

        paths = [video for video in videos if isinstance(video, Path)]
        clips = self.predictor.clips(paths, self.settings.workers, self.settings.clip_timeout)
        failed = 0
        with closing(clips):
            # Where standard error is a terminal, and the results do not go there too.
            quiet = len(videos) < _MANY or sys.stdout.isatty()
            bar = tqdm(videos, "predict", unit="video", disable=True if quiet else None)
            for video in bar:
                found = next(clips) if isinstance(video, Path) else video
                failed += not self._told(found, video if isinstance(video, Path) else None)
        return failed

    def recorded(self, live: Live) -> int:
        """A live source to its end, as a file; 1 where it failed."""
        from harvib.predict.live import BrokenSourceError, live_source, record  # noqa: PLC0415 - FFmpeg

        settings, failed = self.settings, None
        with tempfile.TemporaryDirectory(prefix="harvib-") as folder:
            path = Path(folder) / "recorded.mkv"
            with closing(live_source(live, settings.fps)) as source:
                try:
                    if not record(source.pictures(settings.frames, settings.seconds), path, source.fps):
                        failed = Failed(live.name, _nothing(source))
                except BrokenSourceError as error:
                    failed = Failed(live.name, str(error))
            self._tell_broken(source)
            if failed is not None:
                self.output.failed(failed)
                return 1
            with closing(self.predictor.clips([path], settings.workers, settings.clip_timeout)) as clips:
                return int(not self._told(replace(next(clips), path=live.name), path))

    def stream(self, live: Live) -> int:
        """A live source as it comes, until its end or Ctrl-C; 1 where it broke off, or gave nothing."""
        from harvib.predict.live import BrokenSourceError, Clock, live_source  # noqa: PLC0415 - FFmpeg

        settings, running = self.settings, self.predictor.stream(self.settings.restart_every)
        # What can be refused is, before a device is opened.
        pace_of(self.predictor.samplings, settings.interval, settings.fps)
        if not running.carries and not 0 < settings.restart_every <= MOST_ROWS:
            raise InputError(
                "--stream: the model has no state to carry on, it sees all frames again at each: say "
                f"--restart-every N, {MOST_ROWS:,} at most"
            )
        failed = None
        with ExitStack() as stack:
            source = stack.enter_context(closing(live_source(live, settings.fps)))
            pace = pace_of(self.predictor.samplings, settings.interval, source.fps)
            overlay = self._overlay(stack, source.fps)
            rows, seen, interrupted, clock = [], False, False, Clock()
            try:
                for picture in source.pictures(settings.frames, settings.seconds):
                    due = pace.due(picture.index)
                    for _ in range(due):
                        step = Step(picture.index, picture.time, *running.see(picture.rgb()))
                        self.output.step(live.name, step)
                        rows = self.output.top(step.probabilities)
                    if overlay is not None:
                        overlay.add(picture.rgb(), picture.time, rows)
                    seen = True
                    if isinstance(live, Camera) and (late := clock.behind(picture.time)):
                        self.output.note(
                            f"{live.name}: {late:.1f} s behind: frames come faster than they can be seen; say a "
                            "larger --interval, or a smaller picture"
                        )
                if not seen:
                    failed = Failed(live.name, _nothing(source))
            except BrokenSourceError as error:
                failed = Failed(live.name, str(error))
            except KeyboardInterrupt:
                # The ordinary end of a camera: what was drawn so far is whole.
                interrupted = True
            self._tell_broken(source)
        if failed is not None:
            self.output.failed(failed)
        if interrupted:
            raise KeyboardInterrupt
        return int(failed is not None)

    def _told(self, found: Clip | Failed, path: Path | None) -> bool:
        """Tell what was found of a video; whether there is anything."""
        if isinstance(found, Failed):
            self.output.failed(found)
            return False
        steps: list[Step] = []
        if self.settings.stream or self.overlay is not None:
            for step in self.predictor.steps(found, self.settings.restart_every):
                steps.append(step)
                if self.settings.stream:
                    self.output.step(found.path, step)
        if not self.settings.stream:
            self.output.prediction(self.predictor.predict(found))
        elif found.damaged:
            self.output.note(f"{found.path}: damaged: FFmpeg met errors in it")
        if self.overlay is not None and path is not None:
            return self._drawn(found, path, steps)
        return True

    def _drawn(self, clip: Clip, path: Path, steps: Sequence[Step]) -> bool:
        """Write the overlay of a video; whether it could be decoded once more."""
        from harfeat.extractor import DecodeError, pictures  # noqa: PLC0415 - as above

        fps = clip.fps if clip.fps > 0 else self.settings.fps
        rows: list[tuple[str, float]] = []
        ahead: Iterator[Step] = iter(steps)
        following = next(ahead, None)
        try:
            with ExitStack() as stack:
                overlay = self._overlay(stack, fps)
                assert overlay is not None
                for frame, picture in enumerate(pictures(path)):
                    while following is not None and following.frame <= frame:
                        rows, following = self.output.top(following.probabilities), next(ahead, None)
                    overlay.add(picture, frame / fps, rows)
        except DecodeError as error:
            self.output.failed(Failed(clip.path, str(error)))
            return False
        return True

    def _overlay(self, stack: ExitStack, fps: float) -> Overlay | None:
        if self.overlay is None:
            return None
        from harvib.predict.overlay import Overlay  # noqa: PLC0415 - FFmpeg and fonts

        return stack.enter_context(
            Overlay(self.overlay, fps, min(self.settings.topk, len(self.predictor.classes)))
        )

    def _tell_broken(self, source: LiveSource) -> None:
        if source.broken:
            self.output.note(f"{source.name}: {source.broken:,} broken pictures were left out")


def _nothing(source: LiveSource) -> str:
    return "no JPEG picture in it" if source.name == "-" else "it gave no picture"
