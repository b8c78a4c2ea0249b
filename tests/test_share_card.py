"""The card and the Croissant metadata of a pushed folder, read by the tools they are made for."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlcroissant
import numpy as np
import pytest
from caches import made_up_cache
from huggingface_hub import DatasetCard

from harfeat.cache import ClipRow, Failure, open_cache
from harfeat.share import push

HOSTILE = ('hop|"x"', "run\n# Title", "<script>alert(1)</script>")


def pushed(tmp_path: Path, **options: object) -> Path:
    push(made_up_cache(tmp_path / "actions.h5", **options), str(tmp_path / "shared"))  # type: ignore[arg-type]
    return tmp_path / "shared"


def test_croissant_validates_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared = pushed(tmp_path, failures=[Failure("v_lost", "truncated")])
    with caplog.at_level(logging.WARNING):
        dataset = mlcroissant.Dataset(jsonld=shared / "croissant.json")
    assert caplog.text == ""
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    assert [record["classes/name"] for record in dataset.records("classes")] == [b"hop", b"run", b"sit"] or [
        record["classes/name"] for record in dataset.records("classes")
    ] == ["hop", "run", "sit"]
    (split,) = dataset.records("splits")
    assert (split["splits/train"], split["splits/test"], split["splits/leaking_groups"]) == (18, 12, 0)


def test_the_command_line_validator_agrees_and_can_disagree(tmp_path: Path) -> None:
    shared = pushed(tmp_path)
    command = [str(Path(sys.executable).with_name("mlcroissant")), "validate", "--jsonld"]
    done = subprocess.run([*command, shared / "croissant.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr.upper().replace("WARNINGS.WARN", "")
    broken = json.loads((shared / "croissant.json").read_text())
    del broken["distribution"][0]["sha256"]
    broken["distribution"][0]["contentUrl"] = ""
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    assert subprocess.run([*command, tmp_path / "broken.json"], capture_output=True, check=False).returncode == 1


def test_croissant_names_the_files_and_their_hashes(tmp_path: Path) -> None:
    shared = pushed(tmp_path)
    listed = json.loads((shared / "croissant.json").read_text())["distribution"]
    content = (shared / "actions.h5").read_bytes()
    assert [(item["contentUrl"], item["sha256"], item["contentSize"]) for item in listed] == [
        ("actions.h5", hashlib.sha256(content).hexdigest(), f"{len(content)} B")
    ]


def test_the_card_says_what_is_inside(tmp_path: Path) -> None:
    shared = pushed(tmp_path, failures=[Failure("v_lost", "truncated"), Failure("v_gone", "empty")])
    card = DatasetCard.load(shared / "README.md")
    assert card.data.to_dict()["task_categories"] == ["video-classification"]
    assert card.data.to_dict()["size_categories"] == ["n<1K"]
    with open_cache(shared / "actions.h5") as cache:
        assert f"`{cache.fingerprint}`" in card.text
        assert f"`{cache.content}`" in card.text
        assert f"| rgb | {int(np.sum(cache.lengths('rgb')))} | 6 | float32 |" in card.text
    assert "| held | 18 | 12 | 0 | 0 | last two groups test |" in card.text
    assert "| kind | made up |" in card.text
    assert "| 1 | run | 10 |" in card.text
    assert "30 clips of 3 classes" in card.text
    assert "2 clips of the data set could not be extracted" in card.text
    assert "| v\\_lost | truncated |" in card.text
    assert "terms of the data set" in card.text


def test_the_code_on_the_card_runs(tmp_path: Path) -> None:
    shared = pushed(tmp_path)
    blocks = (shared / "README.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 2
    with open_cache(shared / "actions.h5") as cache:
        first, name = cache.read(0).features, cache.clips[0].name
    for block in blocks:
        known: dict[str, object] = {}
        code = block.partition("```")[0].replace("<folder>/", "")
        check = subprocess.run(
            [
                sys.executable,
                "-c",
                code + "\nprint(repr(rows.tolist()))\nprint(name if 'name' in dir() else names[0])",
            ],
            cwd=shared,
            capture_output=True,
            text=True,
            check=True,
        )
        rows, told = check.stdout.splitlines()
        assert json.loads(rows) == first.tolist()
        assert told == name
        assert not known


def test_names_by_strangers_do_not_become_markup(tmp_path: Path) -> None:
    def renamed(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        return [replace(row, group=f"{row.group}|x") for row in rows], features

    shared = pushed(tmp_path, classes=HOSTILE, change=renamed, failures=[Failure("a|b", "bad\n---\nlicense: mit")])
    card = DatasetCard.load(shared / "README.md")
    assert card.data.to_dict()["license"] == "other"
    assert "<script>" not in card.text.replace("\\<script\\>", "")
    assert "\n# Title" not in card.text
    rows = [line for line in card.text.splitlines() if line.startswith("| 0 |")]
    assert rows == ['| 0 | hop\\|"x" | 10 |']
    dataset = mlcroissant.Dataset(jsonld=shared / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
