"""The page of a run: complete, true to its figures, self-contained, safe with any class name."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner
from pages import Page, self_contained
from small_runs import ODD_CLASSES, QUICK, report_of, small_run

from harfeat.cache import open_cache
from harvib import methods
from harvib.bench import BenchSettings, bench_run
from harvib.cli import main
from harvib.commands.train import train as train_command
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.report.classes import class_figures
from harvib.report.page import page, write_page
from harvib.report.plots import Curves, confusion_plot, curves_plot, log_alpha_plot
from harvib.report.run import command
from harvib.settings import TrainSettings
from harvib.weights import load_model


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def text(finished: Path) -> str:
    return page([finished])


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


@pytest.mark.parametrize("method", ["vib", "magnitude"])
def test_page_of_a_projected_run_tells_the_projection_from_layers(tmp_path: Path, method: str) -> None:
    fields: dict[str, Any] = (
        {"target_params": 100} if method == "magnitude" else {"beta": 1e-4, "beta_input": 1e-4}
    )
    text = page([small_run(tmp_path, method, project=3, **fields)])
    for title in ("Projection", "Layer 1, forward: input gate", "What layer 1 reads"):
        assert title in Page(text).text
    assert "Layer 2" not in text
    assert "Units are those of the projection and of the cells" in text
    # Only VIB has noise that could outweigh a mean.
    assert ("the mean outweighs the noise" in text) == (method == "vib")


def test_table_holds_the_figures_of_report_json(finished: Path, text: str) -> None:
    report = report_of(finished)
    head, *rows = Page(text).tables["results"]
    assert head == ["", "plain", "masked", "compact"]
    shown = {name: values for name, *values in rows}
    states = [report[state] for state in head[1:]]
    assert shown["inputs"] == [f"{state['inputs']:,}" for state in states]
    assert shown["units"] == [f"{state['units']:,}" for state in states]
    assert shown["parameters"] == [f"{state['parameters']['total']:,}" for state in states]
    assert shown["fewer by"] == ["", "", f"{report['ratio']:.1f}×"]
    for part in ("validation", "test"):
        assert shown[f"{part} accuracy"] == [f"{state['accuracy'][part]:.2%}" for state in states]


def test_page_tells_settings_seed_hashes_and_versions(finished: Path, text: str) -> None:
    shown, report = Page(text).text, report_of(finished)
    hashes = (report[key] for key in ("fingerprint", "split_hash", "parts_hash"))
    assert all(value in shown for value in hashes)
    assert all(f"{name} {value}" in shown for name, value in report["versions"].items())
    assert all(name.replace("_", " ") in shown for name in QUICK)


def test_page_needs_nothing_from_outside_and_its_ids_are_its_own(text: str) -> None:
    parsed = self_contained(text)
    assert parsed.links
    assert parsed.tags["svg"] == 2 + 4 + 5 + 1


def test_odd_class_names_are_shown_as_they_are_and_never_as_markup(text: str) -> None:
    parsed = Page(text)
    assert [" ".join(row[1].split()) for row in parsed.tables["classes"][1:]] == list(ODD_CLASSES)
    assert "<b>run</b>" not in text
    assert "49" not in parsed.tables["classes"][4][1]


def test_equal_runs_give_equal_pages(finished: Path, text: str) -> None:
    assert page([finished]) == text


def test_confusion_in_the_report_is_that_of_the_final_model_on_the_test_part(finished: Path) -> None:
    report, cache = report_of(finished), finished.parent / "cache.h5"
    again = evaluate_run(finished, cache, TEST_SPLIT, "test", torch.device("cpu"))
    assert report["confusion"] == again["confusion"]
    with open_cache(cache) as opened:
        labels = opened.labels[opened.split(TEST_SPLIT).roles == 2]
    assert np.sum(report["confusion"], axis=1).tolist() == np.bincount(labels).tolist()
    assert np.trace(report["confusion"]) / len(labels) == pytest.approx(report["compact"]["accuracy"]["test"])


def test_class_lines_count_rows_and_name_the_commonest_mistake() -> None:
    lines = class_figures([[3, 1, 2], [0, 4, 0], [0, 0, 0]], ["a", "b", "c"])
    assert [(line.number, line.name, line.clips, line.right) for line in lines] == [
        (1, "a", 6, 3),
        (2, "b", 4, 4),
        (3, "c", 0, 0),
    ]
    assert [line.accuracy for line in lines] == [0.5, 1.0, None]
    mistake = lines[0].mistaken
    assert mistake is not None
    assert (mistake.number, mistake.name, mistake.clips) == (3, "c", 2)
    assert lines[1].mistaken is None


def test_masks_are_drawn_with_the_number_of_factors_they_keep(finished: Path, text: str) -> None:
    masks = load_model(finished / "masked.safetensors")[0].masks()
    assert list(masks) == ["input", "i", "f", "g", "o"]
    for mask in masks.values():
        kept = int((mask.log_variance.exp() < mask.mu.square()).sum())
        assert f"{kept} of {mask.mu.numel()} kept." in Page(text).text


def test_latency_is_a_row_once_measured_and_a_hint_before(finished: Path, text: str, run: Path) -> None:
    before = Page(text)
    assert "ms per clip" not in before.text
    assert f"harvib bench --model {finished}" in before.text
    result = bench_run(run, BenchSettings(steps=4, repeats=3), "torch", memory=False)
    after = Page(page([run]))
    shown = {name: values for name, *values in after.tables["results"]}
    medians = [result[state]["median_ms"] for state in ("plain", "compact")]
    assert shown["ms per clip, median"] == [f"{medians[0]:.3f}", "", f"{medians[1]:.3f}"]
    assert "CNN backbone" in after.text


def test_command_on_the_page_repeats_the_very_same_settings(tmp_path: Path) -> None:
    settings = TrainSettings(**{**QUICK, "standardize": False, "keep_scales": True, "readout": "last", "seed": 3})
    config = {
        "features": "a cache's.h5",
        "split": "group",
        "init": "/runs/first one",
        "settings": {name: getattr(settings, name) for name in TrainSettings.__dataclass_fields__},
    }
    program, verb, *words = shlex.split(command(config, "again").replace("\\\n", ""))
    assert (program, verb) == ("harvib", "train")
    given = train_command.make_context("train", words).params
    assert (given.pop("features"), given.pop("split")) == ((Path("a cache's.h5"),), "group")
    assert (given.pop("init"), given.pop("run_dir")) == (Path("/runs/first one"), Path("again"))
    assert TrainSettings(**{name: given[name] for name in config["settings"]}) == settings


def test_a_plain_run_has_a_page_without_masks(tmp_path: Path) -> None:
    parsed = Page(page([small_run(tmp_path, method="plain")]))
    assert parsed.tables["results"][0] == ["", "plain"]
    assert "log alpha" not in parsed.text
    assert parsed.tags["svg"] == 2 + 1


def test_a_run_that_took_its_model_over_says_that_it_trained_nothing(finished: Path, tmp_path: Path) -> None:
    settings = TrainSettings(**{**QUICK, "method": "plain"})
    cache = finished.parent / "cache.h5"
    methods.train(cache, TEST_SPLIT, settings, tmp_path / "r", init=finished, device=torch.device("cpu"))
    assert "No epoch was trained" in Page(page([tmp_path / "r"])).text


def test_plots_take_infinite_log_alpha_a_single_epoch_and_many_classes() -> None:
    alpha = np.array([-np.inf, -3.0, 0.0, 2.0, np.inf])
    assert log_alpha_plot("m", alpha, "told").startswith("<svg")
    single = Curves([("plain", 1), ("vib", 2)], {"loss": np.array([1.0, 200.0, 3.0])})
    assert "plain" in curves_plot("c", single, "nats")
    rng = np.random.default_rng(0)
    confusion = np.diag(rng.integers(1, 40, 101)) + (rng.random((101, 101)) < 0.02)
    assert len(confusion_plot("x", confusion, "told")) < 200_000


def test_command_prints_the_table_and_writes_the_page_where_asked(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(run)])
    assert result.exit_code == 0, result.output
    assert Page((run / "report.html").read_text(encoding="utf-8")).tables["results"]
    assert "ms/clip" not in result.stdout
    assert "harvib bench" in result.stdout
    figures = bench_run(run, BenchSettings(steps=4, repeats=3), "torch", memory=False)
    out = tmp_path / "elsewhere.html"
    result = CliRunner().invoke(main, ["report", str(run), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert out.is_file()
    head, plain, _, compact, *_ = result.stdout.splitlines()
    assert head.split()[-1] == "ms/clip"
    for line, state in ((plain, "plain"), (compact, "compact")):
        assert line.split()[-1] == f"{figures[state]['median_ms']:.3f}"


def test_wrong_use_ends_with_one_line_and_code_2(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, said in (
        ([str(tmp_path / "none")], "no such run folder"),
        ([str(run), str(tmp_path / "empty")], "no config.json in it"),
        ([str(run), "--out", str(tmp_path / "none" / "x.html")], "does not exist"),
        ([str(run), "--out", str(tmp_path)], "is a folder"),
    ):
        result = CliRunner().invoke(main, ["report", *words])
        assert result.exit_code == 2
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_report_without_confusion_is_refused_and_leaves_no_page(run: Path) -> None:
    report = report_of(run)
    del report["confusion"]
    (run / "report.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match="no confusion matrix"):
        write_page([run], run / "report.html")
    assert not (run / "report.html").exists()


@pytest.fixture(scope="module")
def several(finished: Path) -> list[Path]:
    """Two settings with three seeds, a deep one, a plain one, all of one cache."""
    folder = finished.parent
    quick: dict[str, Any] = {"vib_epochs": 4, "plain_epochs": 3, "finetune_epochs": 1}
    runs = [
        small_run(folder, name=f"{name}-{seed}", seed=seed, **{**quick, **options})
        for name, options in {"weak": {"beta": 1e-4}, "strong": {}}.items()
        for seed in range(3)
    ]
    deep: dict[str, Any] = {**quick, "layers": 2, "bidirectional": True, "beta": 1e-4}
    runs.append(small_run(folder, name="deep", model="gru", **deep))
    runs.append(small_run(folder, name="lasso", method="lasso", lasso_input=1e-3, lasso_epochs=3, **quick))
    return [*runs, small_run(folder, name="mean", model="mean", **quick)]


def copy_of(run: Path, path: Path, **changes: Any) -> Path:
    """A copy of a run with other entries in report.json; None takes one out."""
    shutil.copytree(run, path)
    report = {key: value for key, value in (report_of(run) | changes).items() if value is not None}
    (path / "report.json").write_text(json.dumps(report))
    return path


def test_settings_of_several_runs_have_mean_and_interval_over_their_seeds(several: list[Path]) -> None:
    parsed = Page(page(several))
    head, *rows = parsed.tables["frontier"]
    lines = [dict(zip(head, row, strict=True)) for row in rows]
    for name, beta in (("weak", "0.0001"), ("strong", "0.02")):
        reports = [report_of(run) for run in several if run.name.startswith(name)]
        for state in ("masked", "compact"):
            (line,) = (
                line
                for line in lines
                if (line[""], line["beta"], line["model"], line["method"]) == (state, beta, "lstm", "vib")
            )
            assert line["seeds"] == "3"
            sizes = [report[state]["parameters"]["total"] for report in reports]
            assert line["parameters"] == f"{np.mean(sizes):,.0f}"
            for part in ("validation", "test"):
                shares = 100 * np.array([report[state]["accuracy"][part] for report in reports])
                # Student's t for three values and 95 %.
                half = 4.302653 * shares.std(ddof=1) / np.sqrt(3)
                assert line[part] == f"{shares.mean():.1f}% ± {half:.1f}"
    # Weak and strong runs of a seed have one plain model; it does not depend on beta.
    plains = [line for line in lines if line[""] == "plain" and line["model"] == "lstm"]
    assert [(line["seeds"], line["beta"]) for line in plains] == [("3", "")]
    assert not any(line["front"] for line in lines if line[""] == "masked")
    assert [line[""] for line in lines if line["front"]]


def test_every_run_has_a_section_of_its_own(several: list[Path]) -> None:
    text = page(several)
    parsed = Page(text)
    assert parsed.tags["details"] == len(several)
    assert {f"run-{number}" for number in range(1, len(several) + 1)} <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {link.removeprefix("#") for link in parsed.links} <= set(parsed.ids)
    assert [row[0] for row in parsed.tables["runs"][1:]] == [run.name for run in several]
    for title in ("Layer 1, forward: candidate", "Layer 2, backward: update gate", "What layer 2 reads"):
        assert title in parsed.text
    assert page(several) == text


def test_every_plot_says_in_words_what_it_shows(text: str) -> None:
    labels = re.findall(r'<svg role="img" aria-label="([^"]+)"', text)
    assert len(labels) == text.count("<svg")
    assert len(set(labels)) == len(labels)
    assert any(re.fullmatch(r"Histogram of log alpha, forget gate: \d of 8 kept\.", label) for label in labels)


def test_runs_of_other_test_clips_are_not_drawn_together(finished: Path, tmp_path: Path) -> None:
    other = copy_of(finished, tmp_path / "other", split_hash="0" * 64)
    assert page([finished, other]).count("<h2>Accuracy against parameters") == 2
    same = copy_of(finished, tmp_path / "same")
    parsed = Page(page([finished, same]))
    # A copy is no second seed.
    assert {row[1] for row in parsed.tables["frontier"][1:]} == {"1"}


def test_runs_that_did_not_end_are_shown_as_far_as_they_are(run: Path, finished: Path, tmp_path: Path) -> None:
    (run / "report.json").unlink()
    result = CliRunner().invoke(main, ["report", str(run)])
    assert (result.exit_code, result.stdout) == (0, f"page: {run / 'report.html'}\n")
    assert f"{run}: Not finished: 32 epochs so far" in result.stderr
    alone = Page((run / "report.html").read_text())
    assert "Not finished" in alone.text
    assert "results" not in alone.tables
    assert alone.tags["svg"] == 4 + 5
    (run / "metrics.csv").unlink()
    (run / "masked.safetensors").unlink()
    assert "no epoch is recorded yet" in page([run])
    cut = copy_of(
        finished,
        tmp_path / "cut",
        interrupted={"stage": "vib", "epoch": 3, "of": 20},
        **dict.fromkeys(("compact", "masked", "compaction", "ratio", "confusion")),
    )
    result = CliRunner().invoke(
        main, ["report", *map(str, (finished, run, cut)), "--out", str(tmp_path / "o.html")]
    )
    assert result.exit_code == 0, result.output
    assert len(re.findall(r"^\S+: (?:Not finished|Interrupted)", result.stderr, re.MULTILINE)) == 2
    parsed = Page((tmp_path / "o.html").read_text())
    assert "Interrupted after epoch 3 of 20 of the vib stage" in parsed.text
    assert parsed.tables["runs"][2][-1] == "not finished"
    # What was cut short is no seed of the setting that ended.
    plains = [row for row in parsed.tables["frontier"][1:] if row[0] == "plain"]
    assert len(plains) == 2


def test_the_published_table_stands_beside_on_request_with_what_differs(finished: Path) -> None:
    assert "published" not in Page(page([finished])).tables
    parsed = Page(page([finished], "ucf101"))
    head, *rows = parsed.tables["published"]
    published = [row for row in rows if not row[0].startswith("harvib")]
    assert len(published) == 4 + 12
    assert ["VIB, main 1", "92.2", "", "469,260", "96", "297"] in published
    report = report_of(finished)["compact"]
    counts = (report["parameters"]["recurrent"], report["inputs"], report["units"])
    assert head[1:] == ["published %", "measured %", "recurrent parameters", "inputs", "units"]
    assert ["harvib, compact", "", f"{100 * report['accuracy']['test']:.1f}", *map(str, counts)] in rows
    sizes = [float(row[3].removesuffix("M").replace(",", "")) * (1e6 if "M" in row[3] else 1) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    for said in (
        "does not tell its data set",
        "4 classes, not the 101",
        "not of inception_v3",
        "Split held, not one",
    ):
        assert said in parsed.text


def test_the_data_set_that_the_cache_names_chooses_the_published_table(tmp_path: Path) -> None:
    provenance = {"dataset": {"name": "hmdb51"}}
    made_up_cache(tmp_path / "cache.h5", classes=ODD_CLASSES, dim=12, provenance=provenance)
    run = small_run(tmp_path, method="plain")
    parsed = Page(page([run]))
    assert len(parsed.tables["published"]) == 1 + 5 + 12 + 1
    assert "does not tell its data set" not in parsed.text
    assert "4 classes, not the 51 of hmdb51." in parsed.text
    assert "is of hmdb51; this is the table of ucf11" in Page(page([run], "ucf11")).text
