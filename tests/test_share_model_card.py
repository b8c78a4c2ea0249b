"""The model card: parsed back and compared with report.json; what it says can be done can be done."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import CLASSES, TEST_SPLIT, made_up_cache, second_labels
from click.testing import CliRunner
from huggingface_hub import EvalResult, ModelCard, ModelCardData, metadata_load
from shared_models import measured
from small_runs import ODD_CLASSES, QUICK, small_run

from harfeat.commands import extract as extracting
from harfeat.sampling import SamplingSettings
from harfeat.settings import ExtractSettings
from harfeat.share import extract_command, fenced, plain
from harvib import fusion, methods
from harvib.commands.train import train as train_command
from harvib.settings import TrainSettings
from harvib.share import push

HOSTILE = (
    "a|b",
    "run\n# Title",
    "<script>alert(1)</script>",
    "[x](http://evil)",
    "---\nlicense: mit\n---",
    "`rm`",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned run, measured; tests must not change it."""
    path = small_run(tmp_path_factory.mktemp("made"), target_params=150)
    measured(path)
    return path


def card_of(run: Path, shared: Path, **options: Any) -> ModelCard:
    push(run, str(shared), **options)
    return ModelCard.load(shared / "README.md")


def results_of(card: ModelCard) -> list[EvalResult]:
    """What the Hub shows of the card's front matter as results."""
    assert isinstance(card.data, ModelCardData)
    assert card.data.eval_results is not None
    return card.data.eval_results


def rows_of(text: str) -> dict[str, list[str]]:
    """The rows of all tables by their first cell."""
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in lines}


def test_the_front_matter_says_what_the_report_does(run: Path, tmp_path: Path) -> None:
    card = card_of(run, tmp_path / "shared")
    report = json.loads((run / "report.json").read_text())
    told = metadata_load(tmp_path / "shared" / "README.md")
    assert told is not None
    assert told["library_name"] == "harvib"
    assert told["pipeline_tag"] == "video-classification"
    assert told["license"] == "unknown"
    assert {"vib", "lstm", "action-recognition"} <= set(told["tags"])
    (result,) = results_of(card)
    assert (result.metric_type, result.metric_value) == ("accuracy", report["compact"]["accuracy"]["test"])
    assert (result.dataset_name, result.dataset_config, result.dataset_split) == ("cache", TEST_SPLIT, "test")
    assert result.verified is False
    assert result.dataset_args == {"split_hash": report["split_hash"], "parts_hash": report["parts_hash"]}
    assert card_of(run, tmp_path / "other", licence="apache-2.0").data.to_dict()["license"] == "apache-2.0"


def test_the_tables_hold_the_figures_of_the_report(run: Path, tmp_path: Path) -> None:
    text = card_of(run, tmp_path / "shared").text
    report = json.loads((run / "report.json").read_text())
    rows, states = rows_of(text), ("plain", "masked", "compact")
    for part in ("validation", "test"):
        wanted = [f"{report[state]['accuracy'][part]:.2%}" for state in states]
        assert rows[f"{part} accuracy"] == wanted
    assert rows["parameters"] == [f"{report[state]['parameters']['total']:,}" for state in states]
    assert rows["inputs"] == [str(report[state]["inputs"]) for state in states]
    assert rows["fewer by"][-1] == f"{report['ratio']:,.1f}×"
    assert f"at most {150:,} parameters; {report['budget']['reached']:,} are left" in text
    assert rows["hidden"] == ["8"]
    assert "dropout" not in rows, "a default"
    for key in ("fingerprint", "split_hash", "parts_hash"):
        assert f"`{report[key]}`" in text
    bench = json.loads((run / "bench.json").read_text())
    assert "## Latency" in text
    assert f"{bench['compact']['median_ms']:.3f}" in text
    assert [rows[str(index)] for index in range(4)] == [[plain(name)] for name in ODD_CLASSES]
    manifest = json.loads((tmp_path / "shared" / "manifest.json").read_text())
    assert f"`{manifest['content']}`" in text
    assert all(rows[plain(file["name"])] == [f"{file['bytes']:,}"] for file in manifest["files"])


def test_the_code_on_the_card_runs(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card_of(run, tmp_path / "shared")
    (block,) = re.findall(r"```python\n(.*?)```", (tmp_path / "shared" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path / "shared")
    found: dict[str, Any] = {}
    exec(block.replace("<folder>", "."), found)
    assert found["model"](torch.zeros(2, 3, 12), torch.tensor([3, 2])).shape == (2, 4)


def test_the_training_command_on_the_card_makes_the_model_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = card_of(run, tmp_path / "shared").text
    (block,) = re.findall(r"```sh\n(harvib train .*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copy(run.parent / "cache.h5", tmp_path)
    words = shlex.split(block.replace("\\\n", ""))[2:]
    done = CliRunner().invoke(train_command, [*words, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_names_by_strangers_do_not_become_markup(tmp_path: Path) -> None:
    made_up_cache(
        tmp_path / "cache.h5", classes=HOSTILE, dim=12, provenance={"dataset": {"name": "x\n---\nlicense: mit"}}
    )
    run = small_run(tmp_path, "plain", plain_epochs=1)
    card = card_of(run, tmp_path / "shared")
    assert card.data.to_dict()["license"] == "unknown"
    assert "<script>" not in card.text.replace("\\<script\\>", "")
    assert "\n# Title" not in card.text
    assert "\nlicense: mit" not in card.text
    assert "[x](" not in card.text
    assert [rows_of(card.text)[str(index)] for index in range(1, 6)] == [[plain(name)] for name in HOSTILE[1:]]
    assert results_of(card)[0].dataset_name == "x\n---\nlicense: mit"


def test_a_block_ends_where_its_text_ends() -> None:
    assert fenced("a\n```\n# evil\n`````") == "``````\na\n```\n# evil\n`````\n``````\n"
    assert fenced("harvib", "sh") == "```sh\nharvib\n```\n"


def test_several_labels_have_their_own_measures(tmp_path: Path) -> None:
    made_up_cache(tmp_path / "cache.h5", dim=12, change=second_labels)
    run = small_run(tmp_path, "plain", plain_epochs=2)
    card = card_of(run, tmp_path / "shared")
    figures = json.loads((run / "report.json").read_text())["plain"]
    found = {result.metric_type: result.metric_value for result in results_of(card)}
    assert found == {
        **{"gap@20": figures["gap"]["test"], "accuracy": figures["accuracy"]["test"]},
        **{"perr": figures["perr"]["test"], "map": figures["map"]["test"]},
    }
    assert rows_of(card.text)["test GAP@20"] == [f"{figures['gap']['test']:.2%}"]


def test_a_fused_run_and_its_streams(tmp_path: Path) -> None:
    for stream in ("rgb", "flow"):
        made_up_cache(tmp_path / f"{stream}.h5", stream=stream, recipe=stream, dim=7)
    settings = TrainSettings(**{**QUICK, "method": "plain", "plain_epochs": 2})
    caches = [tmp_path / "rgb.h5", tmp_path / "flow.h5"]
    report = fusion.train(caches, TEST_SPLIT, settings, tmp_path / "run", device=torch.device("cpu"))
    card = card_of(tmp_path / "run", tmp_path / "shared")
    assert results_of(card)[0].metric_value == report["plain"]["accuracy"]["test"]
    for stream, theirs in report["streams"].items():
        part = card.text.partition(f"Stream {stream}:\n")[2].partition("\nStream ")[0]
        assert rows_of(part)["test accuracy"] == [f"{theirs['plain']['accuracy']['test']:.2%}"]
        assert f"`{theirs['fingerprint']}`" in card.text
    assert f"rgb {report['plain']['weights']['rgb']:.3f}" in card.text
    assert "load_fused" in card.text


def test_pooling_models_have_a_card_too(tmp_path: Path) -> None:
    run = small_run(tmp_path, "vib", model="dbof", clusters="4", bags=2, bag_frames=2, circulant="fc", hidden=8)
    card = card_of(run, tmp_path / "shared")
    assert "clusters and FC" in card.text
    assert list(CLASSES) != list(ODD_CLASSES)


SAMPLINGS = [
    SamplingSettings(),
    SamplingSettings(rule="uniform", frames=8, short="wrap"),
    SamplingSettings(rule="first", interval=3, frames=12),
    SamplingSettings(rule="random", max_interval=4, flip=False, seed=7),
    SamplingSettings(rule="fps", fps=12.5, frames=100, views=3),
    SamplingSettings(rule="dense", interval=2, stream="flow"),
    SamplingSettings(rule="all"),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=lambda sampling: sampling.rule)
@pytest.mark.parametrize("model", ["resnet18", "pixels"])
def test_the_extract_command_on_the_card_has_the_recipe(
    sampling: SamplingSettings, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {"kind": "video", "model": model, "sampling": sampling.recipe()}
    told |= (
        {"size": [64, 48], "dtype": "uint8"}
        if model == "pixels"
        else {"precision": "bfloat16", "dtype": "float32"}
    )
    found = extract_command(told)
    assert found is not None
    taken: list[ExtractSettings] = []

    def extract(settings: ExtractSettings) -> None:
        taken.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(extracting, "extract", extract)
    words = shlex.split(found.replace("\\\n", ""))
    assert words[:2] == ["harfeat", "extract"]
    CliRunner().invoke(extracting.extract_command, words[2:])
    (settings,) = taken
    assert settings.sampling.recipe() == sampling.recipe()
    assert (settings.model, settings.stored_dtype) == (model, told["dtype"])
    if model == "pixels":
        assert settings.pixel_size == (64, 48)
    else:
        assert settings.precision == "bfloat16"


@pytest.mark.parametrize(
    "recipe",
    [{"kind": "import"}, {}, {"kind": "video"}, {"kind": "video", "model": "x", "sampling": {"rule": "evil"}}],
)
def test_what_was_not_extracted_has_no_such_command(recipe: dict[str, Any]) -> None:
    assert extract_command(recipe) is None


def test_the_card_tells_the_recipe_and_how_to_predict(tmp_path: Path) -> None:
    recipe = {
        **{"kind": "video", "model": "resnet18", "weights": "ab" * 32, "precision": "float32", "dtype": "float16"},
        **{"sampling": SamplingSettings(frames=5).recipe(), "transform": {"size": 224, "crop": "a|b"}},
    }
    made_up_cache(tmp_path / "cache.h5", dim=12, recipe=recipe)
    run = small_run(tmp_path, "plain", plain_epochs=1)
    text = card_of(run, tmp_path / "shared").text
    assert "harfeat extract" in text
    assert "--frames 5" in text
    assert "harvib predict --model RUN video.avi" in text
    rows = rows_of(text)
    assert rows["weights"] == ["ab" * 32]
    assert rows["transform.crop"] == ["a\\|b"]
    made = methods.train(
        tmp_path / "cache.h5", TEST_SPLIT, TrainSettings(**{**QUICK, "method": "plain", "plain_epochs": 1}), run
    )
    assert made["method"] == "plain"
