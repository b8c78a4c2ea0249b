"""`harvib export --format c`: the compiled file has the Python model's logits and needs nothing; refusals."""

from __future__ import annotations

import ctypes
import itertools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pooling_models
import pytest
import torch
from c_models import CModel, Stream, assert_close, assert_equal, built, compiled, logits_of, needs_compiler
from caches import TEST_SPLIT
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rounded import rounded
from small_runs import ODD_CLASSES, assert_refused, small_run
from structured import small_of
from test_compact import masked_model
from test_factorised_cells import FORMS, spec_of

from harvib.cli import main
from harvib.compact import compact
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.export import QUANTIZE
from harvib.export.c import cells, to_c
from harvib.export.c.text import identifier, number
from harvib.factorised import KINDS
from harvib.lasso import freeze_masks
from harvib.models import ModelSpec, SequenceClassifier
from harvib.weights import ModelCard, load_model, save_model

CARD = ModelCard(("a", "b", "c", "d"), "f" * 64)
CELLS = ("conv", "gru", "linear", "lstm", "mean", "mlp", "rnn", "rnn-relu")
UNSTACKED = ("linear", "mean", "mlp")

pytestmark = needs_compiler


def small_model(cell: str, seed: int, drop: float = 0.4, hard: bool = True, **options: Any) -> SequenceClassifier:
    return small_of(masked_model(cell, features=9, inputs=7, hidden=6, seed=seed, **options), drop, hard)


@settings(max_examples=30, deadline=None)
@given(
    cell=st.sampled_from(CELLS),
    readout=st.sampled_from(["mean", "last"]),
    layers=st.integers(1, 3),
    project=st.sampled_from([0, 5]),
    hard=st.booleans(),
    kernel=st.sampled_from([1, 2, 3, 5]),
    drop=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 10_000),
    quantize=st.sampled_from(QUANTIZE),
)
def test_clips_and_streams_have_the_logits_of_the_compact_model(
    tmp_path_factory: pytest.TempPathFactory,
    cell: str,
    readout: str,
    layers: int,
    project: int,
    hard: bool,
    kernel: int,
    drop: float,
    seed: int,
    quantize: str,
) -> None:
    options: dict[str, Any] = {} if cell in UNSTACKED else {"layers": layers, "project": project}
    if cell == "conv":
        options["kernel"] = kernel
    small = small_model(cell, seed, drop, hard, readout=readout, **options)
    assert_equal(small, CARD, tmp_path_factory.mktemp("c"), quantize=quantize)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    form=st.sampled_from(FORMS),
    readout=st.sampled_from(["mean", "last"]),
    hard=st.booleans(),
    drop=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 10_000),
    how=st.sampled_from(["smallest", "own", "own in int8"]),
)
def test_structured_matrices_have_the_logits_of_the_compact_model(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    form: dict[str, Any],
    readout: str,
    hard: bool,
    drop: float,
    seed: int,
    how: str,
) -> None:
    torch.manual_seed(seed)
    factors = {"factors": 2 + seed % 2} if kind.startswith("circulant") and seed % 3 else {}
    masked = SequenceClassifier(spec_of(factorize=kind, readout=readout, **{**form, **factors})).masked().eval()
    small = small_of(masked, drop, hard)
    with pytest.MonkeyPatch.context() as patch:
        if how != "smallest":
            # Matrices as small as these are mostly smallest when dense.
            patch.setattr("harvib.export.c.structured.min", lambda forms, key: forms[-1], raising=False)
        quantize = "int8" if how == "own in int8" else "none"
        assert_equal(small, CARD, tmp_path_factory.mktemp("c"), (1, 4), quantize)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_structured_matrix_takes_the_bytes_of_its_weights(kind: str, tmp_path: Path) -> None:
    """64 outputs of 1024 inputs: 262,144 bytes of floats, of which a sparse matrix keeps about a twentieth."""
    torch.manual_seed(0)
    factors = {"factors": 2} if kind.startswith("circulant") else {}
    spec = spec_of(factorize=kind, model="linear", hidden=64, inputs=1024, **factors)
    small = small_of(SequenceClassifier(spec).masked().eval(), 0.95 if kind == "sparse" else 0.0, True)
    weights = sum(matrix.parameter_count() for matrix in small.recurrent.matrices().values())
    # Two bytes for the place of an entry, or an input that is read or placed; a byte for a fixed sign.
    more = 2 * weights if kind == "sparse" else 4 * 2 * 1024
    assert to_c(small, CARD, "m", "m.h").constants <= 4 * weights + more + 2000
    assert_equal(small, CARD, tmp_path, (2,))


@pytest.mark.parametrize("state", ["plain", "compact"])
@pytest.mark.parametrize("cell", ["lstm", "mean"])
def test_rows_of_length_one_are_part_of_the_model(state: str, cell: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    shape = ((9,),) if cell == "mean" else ((4,),)
    spec = ModelSpec(cell, "plain", features=9, inputs=9, shape=shape, classes=4, normalize=True)
    model = SequenceClassifier(spec).eval()
    model.standardize_by(torch.randn(9) * 0.1, torch.rand(9) * 0.1 + 0.1)
    small = model.masked()
    freeze_masks(small, open_all=True)
    small = compact(small.eval())
    c, size = built(small, CARD, tmp_path)
    for scale in (1.0, 1e-12, 1e12):
        x = torch.randn(1, 5, 9) * scale
        x[0, 2] = 0
        assert_close(c.clip(x[0].numpy()), logits_of(model if state == "plain" else small, x))
    stream = Stream(c, size)
    stream.see(np.zeros(9))
    assert_close(stream.logits(), logits_of(model, torch.zeros(1, 1, 9)))


def exported(model: Path, out: Path) -> Result:
    return CliRunner().invoke(main, ["export", "--model", str(model), "--format", "c", "--out", str(out)])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("runs"))


def test_the_command_writes_two_files_that_are_the_run(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "on the-device (2).c"
    result = exported(run, out)
    assert result.exit_code == 0, result.output
    name = "on_the_device__2_"
    assert f"{out} and on the-device (2).h: C99, {name}_clip and {name}_step, inputs " in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["on the-device (2).c", "on the-device (2).h"]
    model = CModel(compiled(out), name, 12, 4)
    assert model.names() == list(ODD_CLASSES)
    network, card = load_model(run / "model.safetensors")
    assert isinstance(network, SequenceClassifier)
    assert model.text("fingerprint") == card.fingerprint
    assert (model.text("stream"), model.text("widths")) == ("rgb", "[]")
    told = evaluate_run(run, run.parent / "cache.h5", TEST_SPLIT, "test", torch.device("cpu"))
    assert str(told["parameters"]["total"]) in model.text("parameters")
    x = torch.randn(1, 6, 12)
    assert_close(model.clip(x[0].numpy()), logits_of(network, x))
    # The same model, the same bytes.
    before = out.read_bytes()
    assert exported(run, out).exit_code == 0
    assert out.read_bytes() == before


def test_a_plain_standardised_model_is_written_with_all_its_inputs(run: Path, tmp_path: Path) -> None:
    small_run(run.parent, "plain", "plain", plain_epochs=1)
    out = tmp_path / "p.c"
    result = exported(run.parent / "plain", out)
    assert "inputs 12 of 12" in result.output
    network, _ = load_model(run.parent / "plain" / "model.safetensors")
    assert isinstance(network, SequenceClassifier)
    x = torch.randn(1, 3, 12)
    assert_close(CModel(compiled(out), "p", 12, 4).clip(x[0].numpy()), logits_of(network, x))


@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3", "-Os"])
@pytest.mark.parametrize("cell", CELLS)
def test_it_calls_nothing_but_expf_and_changes_nothing_but_its_states(
    cell: str, level: str, tmp_path: Path
) -> None:
    """As wide as gives compilers a reason to call memcpy."""
    options: dict[str, Any] = {} if cell in UNSTACKED else {"layers": 2, "project": 33}
    spec = masked_model(cell, features=150, inputs=130, hidden=70, **options)
    freeze_masks(spec, open_all=True)
    files = to_c(compact(spec), CARD, "m", "m.h")
    (tmp_path / "m.h").write_text(files.header)
    (tmp_path / "m.c").write_text(files.source)
    # Without -fno-pie a table of pointers is data that the loader writes to.
    made = compiled(tmp_path / "m.c", level, "-c", "-fno-pie", out="m.o")
    symbols = subprocess.run(["nm", str(made)], capture_output=True, text=True, check=True).stdout
    kinds = [(line.split()[-2], line.split()[-1]) for line in symbols.splitlines()]
    assert {name for kind, name in kinds if kind == "U"} <= {"expf", "_GLOBAL_OFFSET_TABLE_"}
    assert not [name for kind, name in kinds if kind in "bBdDcC"]
    assert {"m_init", "m_step", "m_logits", "m_clip", "m_classes"} <= {name for _, name in kinds}
    assert {name for kind, name in kinds if kind.isupper() and kind != "U"} <= {
        *("m_init", "m_step", "m_logits", "m_clip", "m_classes"),
        *("m_format", "m_fingerprint", "m_stream", "m_widths", "m_recipe", "m_parameters"),
    }


def test_two_states_do_not_disturb_each_other(tmp_path: Path) -> None:
    model, size = built(small_model("conv", 3, kernel=3), CARD, tmp_path)
    clips = torch.randn(2, 6, 9)
    alone = [model.clip(clip.numpy()) for clip in clips]
    streams = [Stream(model, size), Stream(model, size)]
    for step in range(6):
        for stream, clip in zip(streams, clips, strict=True):
            stream.see(clip[step].numpy())
    assert all(np.array_equal(stream.logits(), found) for stream, found in zip(streams, alone, strict=True))


def test_a_state_is_of_the_size_that_is_told(tmp_path: Path) -> None:
    for cell, readout in itertools.product(CELLS, ("mean", "last")):
        model, size = built(small_model(cell, 5, readout=readout), CARD, tmp_path)
        probe = tmp_path / "probe.c"
        probe.write_text(
            f'#include "{model.name}.h"\nsize_t size_of_state(void);\n'
            f"size_t size_of_state(void) {{ return sizeof({model.name}_state); }}\n"
        )
        library = ctypes.CDLL(str(compiled(probe)))
        library.size_of_state.restype = ctypes.c_size_t
        assert library.size_of_state() == size


def test_a_state_that_begins_again_has_forgotten(tmp_path: Path) -> None:
    for cell in CELLS:
        model, size = built(small_model(cell, 6), CARD, tmp_path)
        x = torch.randn(6, 9).numpy()
        stream = Stream(model, size)
        for frame in x[:3]:
            stream.see(frame)
        stream.begin()
        for frame in x[3:]:
            stream.see(frame)
        assert np.array_equal(stream.logits(), model.clip(x[3:]))


def test_class_names_are_told_whatever_stands_in_them(tmp_path: Path) -> None:
    names = ('say "hi"', "C:\\temp\\new", "what??/ ??' ??(", "日本語 é\u0301 🎬", "*/ // \n\t%s", "\x01" + "7")
    torch.manual_seed(0)
    spec = ModelSpec("gru", "compact", features=3, inputs=3, shape=((2,),), classes=len(names))
    model, _ = built(SequenceClassifier(spec).eval(), ModelCard(names, 'f"?', "st\\ream"), tmp_path)
    assert model.names() == list(names)
    assert (model.text("fingerprint"), model.text("stream")) == ('f"?', "st\\ream")


def test_a_recipe_of_any_length_is_told(tmp_path: Path) -> None:
    """C99 promises literals of 4,095 characters."""
    recipe = {"model": "x", "note": "l'\u00f6?\\\n" * 2000}
    model, _ = built(small_model("gru", 0), replace(CARD, recipe=recipe), tmp_path)
    assert json.loads(model.text("recipe")) == recipe


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ is installed")
def test_the_header_is_one_of_cpp_too(tmp_path: Path) -> None:
    model, _ = built(small_model("lstm", 0), CARD, tmp_path)
    user = tmp_path / "user.cpp"
    user.write_text(f'#include "{model.name}.h"\nint main() {{ {model.name}_state s; {model.name}_init(&s); }}\n')
    done = subprocess.run(
        ["g++", "-Wall", "-Wextra", "-Werror", "-pedantic", "-c", "-o", str(tmp_path / "u.o"), str(user)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("2 fast.c", "model_2_fast"),
        ("_x.c", "model__x"),
        ("öl.v1.c", "model__l_v1"),
        ("int.c", "int"),
        ("it's.c", "it_s"),
    ],
)
def test_odd_file_names_give_names_that_compile(run: Path, tmp_path: Path, name: str, prefix: str) -> None:
    result = exported(run, tmp_path / name)
    assert result.exit_code == 0, result.output
    assert len(CModel(compiled(tmp_path / name), prefix, 12, 4).clip(np.zeros((2, 12)))) == 4


def test_what_cannot_be_written_is_refused_in_one_line_and_nothing_is_left(run: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.c").mkdir()
    (tmp_path / "taken.h").mkdir()
    for name, why in {
        "folder.c": "is a folder",
        "taken.c": "its header",
        "none/x.c": "its folder does not exist",
        "x.h": "ends in .c",
        "x": "ends in .c",
        ".c": "ends in .c",
        'q"x.c': "leave out quotes",
        "q\\x.c": "leave out quotes",
        "q??-.c": "leave out quotes",
        "q\nx.c": "C cannot include",
    }.items():
        result = exported(run, tmp_path / name)
        assert result.exit_code == 2, name
        assert why in result.stderr
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder.c", "taken.h"]


def test_a_full_disk_leaves_what_was_there(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.c"
    assert exported(run, out).exit_code == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    genuine = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == ".m.c.part":
            genuine(self, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return genuine(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert_refused(exported(run, out), "cannot be written: No space left on device")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_models_that_have_no_c_form_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = small_model("lstm", 0, bidirectional=True)
    save_model(tmp_path / "both.safetensors", both, CARD)
    assert_refused(
        exported(tmp_path / "both.safetensors", tmp_path / "m.c"), "reads it backwards (--bidirectional)"
    )
    assert not (tmp_path / "m.c").exists()
    monkeypatch.setattr(cells, "EMITTERS", {})
    with pytest.raises(InputError, match="a CompactLSTM cannot be written in C yet: say --format onnx"):
        to_c(small_model("lstm", 0), CARD, "m", "m.h")


def test_a_model_that_lost_its_backward_cells_streams(tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec = ModelSpec("gru", "compact", 5, 5, ((3, 0), (2, 0)), 4, reads=(2,))
    assert_equal(SequenceClassifier(spec).eval(), CARD, tmp_path, (3,))


def test_a_pooling_model_is_refused_in_one_line(tmp_path: Path) -> None:
    model = pooling_models.plain_model().float()
    classes = tuple(f"class {number}" for number in range(model.spec.classes))
    save_model(tmp_path / "pool.safetensors", model, ModelCard(classes, "f" * 64))
    assert_refused(
        exported(tmp_path / "pool.safetensors", tmp_path / "m.c"), "--format c: not for a pooling model"
    )


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_are_written_exactly(value: float) -> None:
    text = number(value)
    assert re.fullmatch(r"-?(0x[01]\.[0-9a-f]*p[+-]\d+|\d+\.\d+)f", text)
    assert (float.fromhex(text[:-1]) if "x" in text else float(text[:-1])) == value


@given(st.text())
def test_names_are_those_of_c(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", identifier(text))


ARM = {"aarch64-linux-gnu-gcc": "aarch64", "arm-linux-gnueabihf-gcc": "arm"}


@pytest.mark.parametrize("quantize", QUANTIZE)
@pytest.mark.parametrize("compiler", ARM)
def test_an_arm_processor_has_the_same_logits(compiler: str, quantize: str, tmp_path: Path) -> None:
    """Under qemu: every cell in one program, for a 64-bit and a 32-bit processor."""
    names = (f"qemu-{ARM[compiler]}", f"qemu-{ARM[compiler]}-static")
    emulator = next(filter(None, map(shutil.which, names)), None)
    if shutil.which(compiler) is None or emulator is None:
        pytest.skip(f"no {compiler} or no {names[0]}: scripts/cross.sh installs them")
    x, models = torch.randn(1, 5, 9), []
    for cell in CELLS:
        for hard in (True, False):
            models.append(small_model(cell, 2, hard=hard, **({"project": 4} if cell == "gru" else {})))
    for place, small in enumerate(models):
        files = to_c(small, CARD, f"m{place}", f"m{place}.h", quantize)
        (tmp_path / f"m{place}.h").write_text(files.header)
        (tmp_path / f"m{place}.c").write_text(files.source)
    values = ", ".join(number(value) for value in x.flatten().tolist())
    includes = "".join(f'#include "m{place}.c"\n' for place in range(len(models)))
    calls = "".join(f"    show(m{place}_clip);\n" for place in range(len(models)))
    main_file = tmp_path / "main.c"
    main_file.write_text(
        f"{includes}#include <stdio.h>\nstatic const float frames[] = {{{values}}};\n"
        "static void show(void clip(const float *, size_t, float *))\n{\n    float out[4];\n    int i;\n"
        '    clip(frames, 5, out);\n    for (i = 0; i < 4; i++)\n        printf("%.9g ", (double)out[i]);\n}\n'
        f"int main(void)\n{{\n{calls}    return 0;\n}}\n"
    )
    program = compiled(main_file, "-O2", "-static", out="main", compiler=compiler)
    done = subprocess.run([emulator, str(program)], capture_output=True, text=True, check=True)
    found = np.array([float(word) for word in done.stdout.split()], np.float32).reshape(-1, 4)
    for logits, small in zip(found, models, strict=True):
        assert_close(logits, logits_of(rounded(small) if quantize == "int8" else small, x))
