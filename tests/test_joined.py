"""What a model is given: joined streams, bytes that stand for numbers, rows of length 1, halves of clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache, second_labels, with_streams
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import QUICK, assert_refused, epochs_of, train_command

from harfeat.cache import CacheError, open_cache
from harvib import fusion, methods
from harvib.cli import main
from harvib.compact import compact
from harvib.data import ClipSet, load_clips, load_parts
from harvib.errors import InputError
from harvib.export import exported_bytes
from harvib.export.torch import to_torch
from harvib.joined import joined
from harvib.lasso import freeze_masks
from harvib.metrics import evaluate
from harvib.models import ModelSpec, SequenceClassifier
from harvib.onnxfile import load_onnx
from harvib.reduction import reduced
from harvib.report.run import command as repeating
from harvib.settings import TrainSettings
from harvib.source import Source, opened
from harvib.weights import ModelCard, load_model

CPU = torch.device("cpu")
QUANTISATION = {"scale": 4 / 255, "shift": 4 / 512 - 2}
RECIPE = {"kind": "made up", "quantisation": QUANTISATION}


def bytes_of(clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [np.clip((values + 2) / 4 * 255, 0, 255).round().astype(np.uint8) for values in clips]


def numbers_of(clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """As YouTube-8M says it."""
    return [values.astype(np.float64) * 4 / 255 + 4 / 512 - 2 for values in clips]


def features_of(path: Path) -> list[np.ndarray]:
    with open_cache(path) as cache:
        return [cache.read(clip).features for clip in range(len(cache.clips))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """both.h5: rgb and audio in bytes; floats.h5: both side by side as numbers."""
    folder = tmp_path_factory.mktemp("joined")
    made = made_up_cache(folder / "made.h5", clips_a_group=4, dim=6, change=second_labels)
    noise = np.random.default_rng(5)
    rgb = bytes_of(features_of(made))
    audio = bytes_of([noise.normal(size=(len(values), 3)) for values in rgb])
    with_streams(made, folder / "both.h5", {"audio": audio, "rgb": rgb}, RECIPE)
    side = [np.concatenate(pair, 1) for pair in zip(numbers_of(rgb), numbers_of(audio), strict=True)]
    with_streams(made, folder / "floats.h5", {"rgb": [values.astype(np.float32) for values in side]})
    return folder


def trained(cache: Path | Source, run_dir: Path, **fields: Any) -> dict[str, Any]:
    chosen = TrainSettings(**{**QUICK, "plain_epochs": 4, "vib_epochs": 6, "finetune_epochs": 2, **fields})
    return methods.train(cache, TEST_SPLIT, chosen, run_dir, device=CPU)


def test_a_joined_stream_is_its_parts_side_by_side(folder: Path) -> None:
    with open_cache(folder / "both.h5") as cache, joined(cache, "rgb+audio") as both:
        rgb, audio = cache.read_all("rgb"), cache.read_all("audio")
        assert (both.dim("rgb+audio"), both.dtype("rgb+audio")) == (9, np.uint8)
        assert np.array_equal(both.read_all("rgb+audio"), np.concatenate([rgb, audio], 1))
        assert np.array_equal(joined(cache, "audio+rgb").read_all("audio+rgb"), np.concatenate([audio, rgb], 1))
        at = cache.lengths("rgb")[:5].sum()
        assert np.array_equal(both.read(5, "rgb+audio").features[0], [*rgb[at], *audio[at]])
        assert both.quantisation("rgb+audio") == cache.quantisation("rgb")
        for name in ("rgb", "audio"):
            assert np.array_equal(both.read_all(name), cache.read_all(name))
        assert len(np.unique(both.clip_hashes("rgb+audio"), axis=0)) == len(cache.clips)


def test_batches_hold_numbers_and_zeros_behind_a_clip(folder: Path) -> None:
    numbers = features_of(folder / "floats.h5")
    with open_cache(folder / "both.h5") as cache:
        clips = load_clips(cache, "rgb+audio")
    assert clips.rows.dtype == torch.uint8
    batch = clips.batch(np.arange(7), CPU)
    assert len(set(batch.lengths.tolist())) > 1
    for place in range(7):
        length = len(numbers[place])
        assert np.allclose(batch.features[place, :length], numbers[place], atol=1e-6)
        assert (batch.features[place, length:] == 0).all()
    every = np.concatenate(numbers).astype(np.float64)
    mean, std = clips.statistics()
    assert np.allclose(mean, every.mean(0), atol=1e-5)
    assert np.allclose(std, every.std(0), atol=1e-5)


def test_bytes_beside_floats_are_joined_as_numbers(folder: Path, tmp_path: Path) -> None:
    with open_cache(folder / "both.h5") as cache:
        rgb = [cache.read(clip, "rgb").features for clip in range(len(cache.clips))]
    other = [np.full((len(values), 2), 0.5, np.float16) for values in rgb]
    with_streams(folder / "made.h5", tmp_path / "m.h5", {"audio": other, "rgb": rgb}, RECIPE)
    with open_cache(tmp_path / "m.h5") as cache:
        clips = load_clips(cache, "rgb+audio")
    expected = [np.concatenate(pair, 1) for pair in zip(numbers_of(rgb), other, strict=True)]
    assert clips.rows.dtype == torch.float32
    assert np.allclose(clips.rows, np.concatenate(expected), atol=1e-6)


def test_a_model_on_joined_bytes_is_the_model_on_their_numbers(folder: Path, tmp_path: Path) -> None:
    fields = {"distill": 0.5, "normalize": True}
    ours = trained(Path(f"{folder}/both.h5::rgb+audio"), tmp_path / "ours", **fields)
    theirs = trained(folder / "floats.h5", tmp_path / "theirs", **fields)
    for state in ("plain", "masked", "compact"):
        assert ours[state]["gap"]["test"] == pytest.approx(theirs[state]["gap"]["test"], abs=0.02)
        assert ours[state]["loss"]["test"] == pytest.approx(theirs[state]["loss"]["test"], rel=0.02)
    _, card = load_model(tmp_path / "ours" / "model.safetensors")
    assert (card.stream, card.widths, card.several) == ("rgb+audio", (6, 3), True)
    assert load_model(tmp_path / "theirs" / "model.safetensors")[1].widths == ()
    where = ["evaluate", "--model", str(tmp_path / "ours"), "--features", str(folder / "both.h5")]
    told = CliRunner().invoke(main, [*where, "--split", TEST_SPLIT])
    assert f"GAP@20 {ours['compact']['gap']['test']:.2%}" in told.output


def test_a_joined_stream_teaches_and_is_fused(folder: Path, tmp_path: Path) -> None:
    both = folder / "both.h5"
    plain = {"method": "plain", "plain_epochs": 2}
    trained(Source(both, "rgb+audio"), tmp_path / "teacher", **plain)
    chosen = TrainSettings(**{**QUICK, **plain, "distill": 0.5})
    methods.train(
        Source(both, "rgb"), TEST_SPLIT, chosen, tmp_path / "pupil", device=CPU, teacher=tmp_path / "teacher"
    )
    sources = [Source(both, "rgb+audio"), Source(folder / "both.h5", "rgb")]
    report = fusion.train(sources, TEST_SPLIT, TrainSettings(**{**QUICK, **plain}), tmp_path / "fused", device=CPU)
    assert len(report["streams"]) == 2
    told = CliRunner().invoke(main, ["evaluate", "--model", str(tmp_path / "fused"), "--features", str(both)])
    assert "GAP@20" in told.output


def test_streams_that_do_not_fit_are_one_line(folder: Path, tmp_path: Path) -> None:
    made = folder / "made.h5"
    rgb = features_of(made)
    longer = [np.zeros((len(values) + (place == 3), 2), np.float32) for place, values in enumerate(rgb)]
    path = with_streams(made, tmp_path / "u.h5", {"audio": longer, "rgb": rgb})
    with (
        pytest.raises(InputError, match=r"clip v_0_0_3 has \d rows in rgb and \d in audio"),
        opened(Source(path, "rgb+audio")),
    ):
        pass
    with pytest.raises(CacheError, match="no stream 'flow'"), opened(Source(path, "rgb+flow")):
        pass
    with pytest.raises(InputError, match="stands there twice"), opened(Source(path, "rgb+rgb")):
        pass
    assert_refused(train_command(path, tmp_path / "run"), "u.h5::audio+rgb for all side by side")


def model_of(state: str = "plain", **fields: Any) -> SequenceClassifier:
    torch.manual_seed(3)
    spec = ModelSpec(cell="lstm", state="plain", features=5, inputs=2, shape=((4,),), classes=3, normalize=True)
    model = SequenceClassifier(replace(spec, **fields))
    model.selection.copy_(torch.tensor([1, 4]))
    model.standardize_by(torch.tensor([0.1, 0.2]), torch.tensor([0.5, 2.0]))
    if state == "plain":
        return model.eval()
    masked = model.masked()
    freeze_masks(masked, open_all=True)
    return compact(masked.eval())


def unit(rows: np.ndarray) -> np.ndarray:
    """Row by row."""
    return np.array([[row / np.linalg.norm(row) if row.any() else row for row in clip] for clip in rows])


@pytest.mark.parametrize("state", ["plain", "compact"])
@torch.no_grad()
def test_normalised_rows_are_part_of_the_model(state: str, tmp_path: Path) -> None:
    """Of a row all features count, also those that the model does not read."""
    x, lengths = torch.randn(6, 4, 5) * 7, torch.tensor([4, 3, 1, 4, 2, 4])
    x[1, 2], x[2, 1:] = 0, 0
    model, bare = model_of(state), model_of(state, normalize=False)
    expected = bare(torch.from_numpy(unit(x.numpy())), lengths)
    assert torch.allclose(model(x, lengths), expected, atol=1e-6)
    assert torch.allclose(model(x * 13, lengths), expected, atol=1e-6)
    card = ModelCard(("a", "b", "c"), "f" * 64)
    (tmp_path / "m.onnx").write_bytes(exported_bytes(model, card, "onnx")["model.onnx"])
    assert torch.allclose(load_onnx(tmp_path / "m.onnx")[0](x, lengths), expected, atol=1e-5)
    with pytest.raises(InputError, match="--normalize"):
        to_torch(model)


@given(st.booleans(), st.booleans(), st.sampled_from(["lstm", "mean"]), st.sampled_from(["u1", "f2", "f4"]))
@settings(max_examples=24, deadline=None)
@torch.no_grad()
def test_copies_for_a_stage_are_of_normalised_rows(selects: bool, long: bool, cell: str, dtype: str) -> None:
    rng = np.random.default_rng(1)
    lengths = [40, 30, 50] if long else [1, 2, 3]
    rows = torch.from_numpy((rng.normal(size=(sum(lengths), 64)) * 20 + 90).clip(0, 255).astype(dtype))
    offsets = np.array([0, *np.cumsum(lengths)])
    clips = ClipSet(rows, offsets, torch.zeros(3).long(), np.array([2, 0]), quantisation=(4 / 255, -1.99))
    torch.manual_seed(0)
    inputs = 8 if selects else 64
    spec = ModelSpec(
        cell=cell, state="plain", features=64, inputs=inputs, shape=((4,),), classes=3, normalize=True
    )
    model = SequenceClassifier(spec).eval()
    model.selection.copy_(torch.randperm(64)[:inputs].sort().values)
    expected = evaluate(model, clips, CPU).logits
    with reduced(model, clips, clips.halved()) as (found, halved):
        assert found.dim == (inputs if selects else 64)
        assert np.allclose(evaluate(model, found, CPU).logits, expected, atol=1e-5)
        assert halved.views is not None
    assert model.spec == spec


def test_statistics_and_selection_are_of_normalised_rows(folder: Path, tmp_path: Path) -> None:
    trained(
        folder / "floats.h5", tmp_path / "run", method="plain", normalize=True, select_inputs=4, plain_epochs=1
    )
    model, _ = load_model(tmp_path / "run" / "model.safetensors")
    assert model.spec.normalize
    with open_cache(folder / "floats.h5") as cache:
        train = load_parts(cache, TEST_SPLIT, 0.2, 0).train
        rows = unit(np.concatenate([cache.read(int(clip)).features for clip in train.clips])[None])[0]
    assert np.allclose(model.input_mean, rows.mean(0)[model.selection], atol=1e-6)
    told = train_command(
        folder / "floats.h5",
        tmp_path / "b",
        "--init",
        str(tmp_path / "run"),
        "--select-inputs",
        "4",
        "--standardize",
    )
    assert_refused(told, "has --hidden 8, --normalize yes; this run asks for --hidden 256, --normalize no")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 50), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_halves_are_drawn_anew_each_epoch(lengths: list[int], seed: int, epoch: int) -> None:
    rows = torch.arange(1.0, sum(lengths) + 1)[:, None]
    offsets = np.array([0, *np.cumsum(lengths)])
    whole = ClipSet(rows, offsets, torch.zeros(len(lengths)).long(), np.arange(len(lengths)))
    halved = whole.halved()
    found: list[set[tuple[float, ...]]] = [set() for _ in lengths]
    for number in range(epoch, epoch + 12):
        for batch in halved.shuffled(3, CPU, seed, number):
            for x, length, place in zip(
                batch.features, batch.lengths.tolist(), batch.positions.tolist(), strict=True
            ):
                found[place].add(tuple(x[:length, 0].tolist()))
    for place, length in enumerate(lengths):
        clip = rows[offsets[place] : offsets[place + 1], 0].tolist()
        middle = (length + 1) // 2
        allowed = {tuple(clip[:middle]), tuple(clip[middle:])} if length > 1 else {tuple(clip)}
        assert found[place] <= allowed
        assert len(found[place]) == 1 or found[place] == allowed
    assert [batch.features.tolist() for batch in halved.batches(2, CPU)] == [
        batch.features.tolist() for batch in whole.batches(2, CPU)
    ], "all but training sees whole clips"


def test_the_repeating_command_names_the_stream_where_there_are_several() -> None:
    config: dict[str, Any] = {"features": "y.h5", "split": "yt8m", "init": None, "settings": {}, "stream": "rgb"}
    assert "--features y.h5 " in repeating(config, "again")
    two = {"recipe": {"streams": {"audio": 128, "rgb": 1024}}}
    assert "--features y.h5::rgb " in repeating(config | two, "again"), "it would be refused: say which one"
    parts = [{"features": "y.h5", "stream": stream} for stream in ("rgb", "audio")]
    fused = repeating(config | {"streams": parts}, "again")
    assert "--features y.h5::rgb " in fused
    assert "--features y.h5::audio " in fused
    other = [{"features": "y.h5", "stream": "rgb"}, {"features": "z.h5", "stream": "audio"}]
    assert "--features y.h5 " in repeating(config | {"streams": other}, "again")


def test_a_run_on_halves_repeats(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        trained(Path(f"{folder}/both.h5::rgb+audio"), tmp_path / name, halves=True)
    trained(Path(f"{folder}/both.h5::rgb+audio"), tmp_path / "c")
    assert epochs_of(tmp_path / "a") == epochs_of(tmp_path / "b") != epochs_of(tmp_path / "c")


def test_the_rate_falls_every_so_many_examples(folder: Path, tmp_path: Path) -> None:
    fields = {"schedule": "examples", "decay_examples": 100, "decay_factor": 0.5, "batch": 8, "lr": 0.01}
    trained(folder / "floats.h5", tmp_path / "run", method="plain", plain_epochs=6, **fields)
    with open_cache(folder / "floats.h5") as cache:
        count = len(load_parts(cache, TEST_SPLIT, 0.2, 0).train)
    steps = -(-count // 8)
    for row in epochs_of(tmp_path / "run"):
        # Clips before the epoch's last step.
        before = (int(row["epoch"]) * steps - 1) * 8
        assert float(row["lr"]) == pytest.approx(0.01 * 0.5 ** (before // 100), rel=1e-5)
    with pytest.raises(InputError, match="only --schedule examples"):
        TrainSettings(decay_factor=0.5)


def test_views_are_joined_too_and_halved(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rgb = features_of(folder / "made.h5")
    streams = {
        name: [rng.normal(size=(len(values) + extra, width)).astype(np.float32) for values in rgb]
        for name, extra, width in (
            ("audio", 0, 2),
            ("audio-view-1", 1, 2),
            ("rgb-view-1", 1, 6),
            ("rgb-view-2", 1, 6),
        )
    }
    path = with_streams(folder / "made.h5", tmp_path / "v.h5", {**streams, "rgb": rgb})
    with open_cache(path) as cache:
        whole = load_parts(cache, TEST_SPLIT, 0.2, 0, True, "rgb+audio").train
        halved = load_parts(cache, TEST_SPLIT, 0.2, 0, True, "rgb+audio", halves=True).train
    assert whole.views is not None
    assert halved.views is not None
    assert (len(whole.views), len(halved.views)) == (1, 2), "only view 1 is there of both streams"
    for clip in halved.clips:
        rows = np.concatenate([streams["rgb-view-1"][clip], streams["audio-view-1"][clip]], 1)
        assert np.array_equal(whole.rows[slice(*whole.views[0, clip])], rows)
        first, second = (halved.rows[slice(*halved.views[half, clip])] for half in range(2))
        assert np.array_equal(torch.cat([first, second]), rows)
        assert len(first) - len(second) in (0, 1)
