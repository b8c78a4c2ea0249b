"""Rules of the house that no other test would notice: who imports whom, no pickle, modules of a readable size."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted([*ROOT.glob("harfeat/**/*.py"), *ROOT.glob("harvib/**/*.py")])
DOORS: dict[str, tuple[str, ...]] = {
    "harfeat.cache": ("harvib/",),
    "harfeat.extractor": ("harvib/predict/", "harvib/export/pipeline/", "harvib/bench/"),
    "harfeat.share": ("harvib/share/",),
}
"""What harvib may import of harfeat, and which of its modules may."""
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(tree: ast.Module, package: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(module, names) of every import of a file, wherever it stands; relative ones made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, tuple(alias.name for alias in node.names)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def test_the_rules_see_the_whole_source() -> None:
    assert len(MODULES) > 40
    assert {"harfeat/cli.py", "harvib/cells/lstm.py", "harvib/commands/train.py"} <= {name_of(p) for p in MODULES}


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).startswith("harfeat")], ids=name_of)
def test_harfeat_does_not_know_harvib(path: Path) -> None:
    modules = [module for module, _ in imports_of(tree_of(path), package_of(path))]
    assert not [module for module in modules if is_in(module, "harvib")]


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).startswith("harvib")], ids=name_of)
def test_harvib_knows_nothing_of_harfeat_but_its_doors(path: Path) -> None:
    for module, names in imports_of(tree_of(path), package_of(path)):
        if is_in(module, "harfeat"):
            assert module in DOORS
            assert name_of(path).startswith(DOORS[module])
            assert names
            assert not any(name.startswith("_") or "write" in name.lower() for name in names)
            assert set(names) <= set(getattr(importlib.import_module(module), "__all__", names))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_pickled(path: Path) -> None:
    tree = tree_of(path)
    for module, names in imports_of(tree, package_of(path)):
        # The error that a refused file raises has its name from pickle; see below.
        assert module.split(".")[0] not in PICKLES or (module, names) == ("pickle", ())
        assert not (module == "torch" and {"save", "load"} & set(names))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
            assert node.attr == "UnpicklingError"
        if isinstance(node, ast.Call):
            called, keywords = (
                ast.unparse(node.func),
                {item.arg: ast.unparse(item.value) for item in node.keywords},
            )
            assert called not in ("torch.save", "joblib.load", "joblib.dump"), called
            assert called != "torch.load" or keywords.get("weights_only") == "True"
            assert keywords.get("allow_pickle", "False") == "False"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350
    assert path.stat().st_size == 0 or ast.get_docstring(tree_of(path)), "a module says what it is"
