"""Merging: slices give the single run, other caches are joined, and nothing is mixed or lost silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harfeat.cache import (
    CacheError,
    CacheHead,
    ClipFeatures,
    ClipRow,
    Failure,
    StreamLayout,
    open_cache,
    write_cache,
)
from harfeat.cache.folder import WorkFolder, write_shard
from harfeat.cache.manifest import Manifest, read_manifest
from harfeat.cache.merging import merge
from harfeat.cli import main
from harfeat.errors import InputError, printable
from harfeat.splits import fixed_split, leaking_groups

RECIPE: dict[str, Any] = {"kind": "video", "sampling": {"frames": 3}}
CLASSES = ("hop", "run", "sit")
NAMES = tuple(f"hop/c {number}.é.avi" for number in range(9))
STREAMS = ("rgb", "rgb-view-1")
RULE = "every third tests"


def row(name: str) -> ClipRow:
    number = int(name.split()[1][0])
    return ClipRow(name, number % 3, f"g{number // 2}", 10 + number, 25.0, f"hash{number}")


def clip(name: str) -> dict[str, ClipFeatures]:
    number = int(name.split()[1][0])
    rng = np.random.default_rng(number)
    length = 1 + number % 4
    return {
        stream: ClipFeatures(rng.normal(size=(length, 4)).astype(np.float16), np.arange(length) + number)
        for stream in STREAMS
    }


def head(names: Sequence[str] = NAMES, failed: Sequence[str] = ()) -> CacheHead:
    rows = [row(name) for name in names]
    roles = [2 if one.source_frames % 3 == 0 else 1 for one in rows]
    split = fixed_split("1", roles, [one.group for one in rows], RULE)
    failures = [Failure(name, "broken") for name in failed]
    return CacheHead(RECIPE, CLASSES, rows, (split,), failures, {"by": "test", "machine": "this"})


def packed(path: Path, whole: CacheHead) -> Path:
    clips = [clip(one.name) for one in whole.clips]
    layouts = {
        stream: StreamLayout([len(values[stream].features) for values in clips], 4, np.dtype(np.float16))
        for stream in STREAMS
    }
    write_cache(path, whole, layouts, clips)
    return path


def folder(path: Path, whole: CacheHead, part: tuple[int, int] | None = None, finish: bool = True) -> Path:
    """A folder of shards of two clips each."""
    names = [one.name for one in whole.clips]
    work = WorkFolder(path, Manifest(whole.recipe, len(names) + len(whole.failures), slice=part))
    work.open()
    for first in range(0, len(names), 2):
        few = names[first : first + 2]
        work.add([write_shard(work.path, whole.recipe, CLASSES, [row(n) for n in few], [clip(n) for n in few])])
    work.add(failures=whole.failures)
    if finish:
        work.finish(whole)
    work.close()
    return path


def slices(where: Path, count: int, failed: Sequence[str] = ()) -> Path:
    for i in range(count):
        there = [name for name in NAMES[i::count] if name not in failed]
        whole = head(there, [name for name in NAMES[i::count] if name in failed])
        folder(where / f"slice-{i + 1}-of-{count}", whole, (i, count))
    return where


def test_all_slices_merge_to_the_single_run(tmp_path: Path) -> None:
    failed = NAMES[4:5]
    single = packed(tmp_path / "single.h5", head([name for name in NAMES if name not in failed], failed))
    result = merge([slices(tmp_path / "slices", 4, failed)], tmp_path / "merged.h5")
    assert result.notes == ()
    with open_cache(single) as one, open_cache(tmp_path / "merged.h5") as two:
        assert one.content == two.content == result.content
        assert (one.clips, one.failures, one.streams) == (two.clips, two.failures, two.streams)
        for stream in STREAMS:
            np.testing.assert_array_equal(one.read_all(stream), two.read_all(stream))
        told = two.provenance["merged_from"]
        assert two.provenance["by"] == "test"
    assert [entry["name"] for entry in told] == [f"slice-{i}-of-4" for i in (1, 2, 3, 4)]
    for entry in told:
        with open_cache(tmp_path / "slices" / entry["name"]) as cache:
            assert entry["content"] == cache.content


@settings(max_examples=25, deadline=None)
@given(owners=st.lists(st.integers(0, 3), min_size=len(NAMES), max_size=len(NAMES)), packs=st.integers(0, 15))
def test_any_division_of_the_clips_merges_to_the_whole(
    tmp_path_factory: pytest.TempPathFactory, owners: list[int], packs: int
) -> None:
    where = tmp_path_factory.mktemp("parts")
    sources = []
    for owner in dict.fromkeys(owners):
        names = [name for name, one in zip(NAMES, owners, strict=True) if one == owner]
        make = packed if packs >> owner & 1 else folder
        sources.append(make(where / f"{owner}.h5" if packs >> owner & 1 else where / str(owner), head(names)))
    merge(sources, where / "merged.h5")
    single = packed(where / "single.h5", head())
    with open_cache(single) as one, open_cache(where / "merged.h5") as two:
        assert one.content == two.content
        for index, name in enumerate(NAMES):
            for stream in STREAMS:
                np.testing.assert_array_equal(two.read(index, stream).features, clip(name)[stream].features)
                np.testing.assert_array_equal(two.read(index, stream).frame_index, clip(name)[stream].frame_index)


def test_leaks_are_counted_over_the_whole(tmp_path: Path) -> None:
    parts = [packed(tmp_path / f"{i}.h5", head(NAMES[i::2])) for i in range(2)]
    for part in parts:
        with open_cache(part) as cache:
            assert cache.split("1").leaking_groups == 0  # a group has two clips, one in each
    result = merge(parts, tmp_path / "merged.h5")
    with open_cache(tmp_path / "merged.h5") as cache:
        roles = cache.split("1").roles
        by_hand = [f"g{k}" for k in range(4) if roles[2 * k] != roles[2 * k + 1]]
        assert result.splits[0].leaking_groups == cache.split("1").leaking_groups == len(by_hand) > 0


def test_a_clip_that_failed_here_and_stands_there_is_no_failure(tmp_path: Path) -> None:
    one = packed(tmp_path / "1.h5", head(NAMES[:3], (NAMES[5], NAMES[8])))
    two = packed(tmp_path / "2.h5", head(NAMES[3:8]))
    assert merge([one, two], tmp_path / "m.h5").failures == (Failure(NAMES[8], "broken"),)


def test_other_classes_are_joined_and_labels_renumbered(tmp_path: Path) -> None:
    one = packed(tmp_path / "1.h5", head(NAMES[:3]))
    other = head(NAMES[3:])
    rows = [replace(row, label=(row.label + 1) % 4 if place else -1) for place, row in enumerate(other.clips)]
    two = packed(tmp_path / "2.h5", replace(other, clips=rows, classes=("sit", "fly", "hop", "öl")))
    result = merge([one, two], tmp_path / "m.h5")
    assert any("classes differ: 5" in note for note in result.notes)
    with open_cache(tmp_path / "m.h5") as cache:
        assert cache.classes == ("hop", "run", "sit", "fly", "öl")
        for path in (one, two):
            with open_cache(path) as source:
                names = {c.name: source.classes[c.label] if c.label >= 0 else None for c in source.clips}
            merged = {c.name: cache.classes[c.label] if c.label >= 0 else None for c in cache.clips}
            assert {name: merged[name] for name in names} == names


def test_a_split_that_one_lacks_leaves_its_clips_unused(tmp_path: Path) -> None:
    one = packed(tmp_path / "1.h5", head(NAMES[:4]))
    two = packed(tmp_path / "2.h5", replace(head(NAMES[4:]), splits=()))
    result = merge([one, two], tmp_path / "m.h5")
    assert result.notes == (f"split 1: the 5 clips of {two} lack it and are unused in it",)
    assert result.splits[0].roles.tolist()[4:] == [0] * 5
    assert (result.splits[0].roles[:4] > 0).all()


@pytest.mark.parametrize("change", [{"rule": "another"}, {"seed": 7}])
def test_splits_of_another_rule_or_seed_are_refused_or_dropped(change: dict[str, Any], tmp_path: Path) -> None:
    one, other = packed(tmp_path / "1.h5", head(NAMES[:4])), head(NAMES[4:])
    two = packed(tmp_path / "2.h5", replace(other, splits=(replace(other.splits[0], **change),)))
    with pytest.raises(
        InputError, match=rf"split 1 has the {next(iter(change))} .* leave it out with --drop-split"
    ):
        merge([one, two], tmp_path / "m.h5")
    assert merge([one, two], tmp_path / "m.h5", drop_splits=["1"]).splits == ()
    with pytest.raises(InputError, match="--drop-split 9: no source has it; there are: 1"):
        merge([one, two], tmp_path / "n.h5", drop_splits=["9"])


def test_a_clip_in_two_sources_is_named(tmp_path: Path) -> None:
    one, two = packed(tmp_path / "1.h5", head(NAMES[:4])), folder(tmp_path / "2", head(NAMES[3:]))
    with pytest.raises(InputError, match=r"clip hop/c 3\.é\.avi stands in .*1\.h5 and in .*2"):
        merge([one, two], tmp_path / "m.h5")
    with pytest.raises(InputError, match="named twice"):
        merge([one, one], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


def test_a_strangers_names_cannot_command_the_terminal(tmp_path: Path) -> None:
    odd = "c\x1b]0;owned\x07\nharfeat: all well"
    failed = replace(head(NAMES[:4]), failures=[Failure(odd, odd)])
    one, two = packed(tmp_path / "1.h5", failed), packed(tmp_path / "2.h5", head(NAMES[4:]))
    run = CliRunner().invoke(main, ["merge", str(one), str(two), "--out", str(tmp_path / "m.h5")])
    assert run.exit_code == 0, run.output
    assert "missing c\\x1b]0;owned\\x07\\nharfeat: all well" in run.output
    assert "\x1b" not in run.output
    assert str(InputError(f"clip {odd} stands in two")) == f"clip {printable(odd)} stands in two"


def test_other_fingerprints_are_refused_with_the_field(tmp_path: Path) -> None:
    one = packed(tmp_path / "1.h5", head(NAMES[:4]))
    two = packed(tmp_path / "2.h5", replace(head(NAMES[4:]), recipe={"kind": "video", "sampling": {"frames": 5}}))
    with pytest.raises(InputError, match=r"sampling\.frames: 3 against 5"):
        merge([one, two], tmp_path / "m.h5")


def test_other_streams_are_refused(tmp_path: Path) -> None:
    one, whole = packed(tmp_path / "1.h5", head(NAMES[:4])), head(NAMES[4:6])
    layout = {"rgb": StreamLayout([1, 1], 4, np.dtype(np.float16))}
    values = {"rgb": ClipFeatures(np.ones((1, 4), np.float16), np.zeros(1, np.int32))}
    write_cache(tmp_path / "2.h5", whole, layout, [values, values])
    with pytest.raises(CacheError, match=r"2\.h5: its streams rgb \(4 float16\) differ"):
        merge([one, tmp_path / "2.h5"], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


def test_absent_slices_are_named_and_never_a_silent_gap(tmp_path: Path) -> None:
    where = slices(tmp_path / "slices", 4)
    there = [where / "slice-1-of-4", where / "slice-3-of-4"]
    with pytest.raises(InputError, match=r"slices missing: 2/4, 4/4; extract them, or say --allow-missing"):
        merge(there, tmp_path / "m.h5")
    result = merge(there, tmp_path / "m.h5", allow_missing=True)
    assert [failure.name for failure in result.failures] == ["slice-2-of-4", "slice-4-of-4"]
    # What was absent may come later, and then nothing is lacking.
    with pytest.raises(InputError, match=r"slices missing: 4/4"):
        merge([tmp_path / "m.h5", where / "slice-2-of-4"], tmp_path / "n.h5")
    late = [tmp_path / "m.h5", where / "slice-2-of-4", where / "slice-4-of-4"]
    assert merge(late, tmp_path / "n.h5").content == merge([where], tmp_path / "at once.h5").content


def test_an_unfinished_slice_is_refused(tmp_path: Path) -> None:
    where = slices(tmp_path / "slices", 2)
    folder(where / "slice-1-of-2b", head(NAMES[:2]), finish=False)
    with pytest.raises(CacheError, match="slice-1-of-2b: extraction is unfinished, 2 of 2 clips"):
        merge([where], tmp_path / "m.h5")
    (where / "slice-9-of-9").mkdir()
    with pytest.raises(CacheError, match=r"unfinished|slice-9-of-9: holds no manifest"):
        merge([where], tmp_path / "m.h5")


def test_a_slice_of_failures_alone_is_part_of_the_whole(tmp_path: Path) -> None:
    """Its folder holds a head and no shard."""
    slices(tmp_path / "s", 3, NAMES[1::3])
    assert read_manifest(tmp_path / "s" / "slice-2-of-3").of_kind("shard") == ()
    result = merge([tmp_path / "s"], tmp_path / "m.h5")
    assert (result.clips, [failure.name for failure in result.failures]) == (6, list(NAMES[1::3]))
    alone = folder(tmp_path / "alone", head((), NAMES))
    with pytest.raises(InputError, match="none of the sources holds a clip"):
        merge([alone], tmp_path / "n.h5")


def test_slices_of_a_data_set_that_changed_between_them_are_refused(tmp_path: Path) -> None:
    """Slice 1 saw all clips and slice 2 all but the fourth: no clip stands twice, and one in none of them."""
    later = [name for name in NAMES if name != NAMES[3]]
    folder(tmp_path / "slice-1-of-2", head(NAMES[0::2]), (0, 2))
    folder(tmp_path / "slice-2-of-2", head([name for name in later[1::2] if name not in NAMES[0::2]]), (1, 2))
    with pytest.raises(InputError, match=r"belongs to slice \d/2: videos came or went between"):
        merge([tmp_path], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


def test_two_data_sets_of_as_many_slices_each(tmp_path: Path) -> None:
    for name, part in (("a", NAMES[:5]), ("b", NAMES[5:])):
        for i in range(2):
            folder(tmp_path / name / f"slice-{i + 1}-of-2", head(part[i::2]), (i, 2))
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m.h5").clips == len(NAMES)


def test_damaged_features_are_not_carried_over(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "1", head(NAMES[:4])), packed(tmp_path / "2.h5", head(NAMES[4:]))
    values = clip(NAMES[2])["rgb"].features.tobytes()
    spoilt = [path for path in one.glob("shard-*") if values in path.read_bytes()]
    spoilt[0].write_bytes(spoilt[0].read_bytes().replace(values, bytes(len(values))))
    with pytest.raises(CacheError, match=r"c 2\.é\.avi do not match their hash"):
        merge([one, two], tmp_path / "m.h5")
    assert not (tmp_path / "m.h5").exists()


def test_the_command(tmp_path: Path) -> None:
    where, out = slices(tmp_path / "slices", 3), tmp_path / "m.h5"
    run = CliRunner().invoke(main, ["merge", str(where), "--out", str(out)])
    assert run.exit_code == 0, run.output
    with open_cache(out) as cache:
        assert f"{out}: 9 clips, content {cache.content}" in run.output
        leaks = leaking_groups(cache.split("1").roles, [one.group for one in cache.clips])
    assert f"split 1: 6 train, 3 test, {leaks} LEAKING GROUPS" in run.output
    again = CliRunner().invoke(main, ["merge", str(where), "--out", str(out)])
    assert again.exit_code == 2
    assert "exists" in again.output
    empty = tmp_path / "empty"
    empty.mkdir()
    none = CliRunner().invoke(main, ["merge", str(empty), "--out", str(tmp_path / "x.h5")])
    assert none.exit_code == 2
    assert "neither a manifest.json nor folders of slices" in none.output
