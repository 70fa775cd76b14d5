"""Who may import whom, and what the installed package holds."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import steel
from tests.paths import ROOT

LEAVES = {
    "steel.config": {"steel.errors", "steel.plain"},
    "steel.plain": {"steel.errors"},
    "steel.errors": {"steel.startup"},
    "steel.gates": set(),
    "steel.startup": set(),
    "steel.labels.rle": {"steel.errors"},
    "steel.metrics.counts": {"steel.errors"},
}
LAYERS = (
    "startup", "errors", "option_values", "machine", "extensions", "stopping", "executors", "plain",
    "validation_errors", "storage", "arrow_file", "precision", "config", "folds", "views", "images", "labels",
    "synthetic", "shards", "loading",
    "model", "gates", "decision", "metrics", "thresholds", "checkpoint_header", "checkpoint", "pretrained",
    "inference", "reports", "tracking", "distributed", "serving", "commands", "cli", "__main__",
)  # fmt: skip
"""The modules and packages of steel, from the bottom up: each imports itself and what stands before it."""
TORCH_FREE = (
    "steel",
    "steel.checkpoint_header",
    "steel.cli",
    "steel.config",
    "steel.labels.labels",
    "steel.images.decode",
    "steel.loading.sampler",
    "steel.labels.rle",
    "steel.shards.format",
    "steel.shards.reader",
    "data_prep.splits",
    "steel.synthetic.dataset",
    "steel.thresholds.tuning",
    "steel.decision",
    "steel.reports.explore",
    "steel.reports.plots",
    "steel.reports.evaluation",
    "steel.reports.evaluation_report",
    "steel.labels.submission",
    "steel.inference.onnx_predictor",
    "steel.inference.predict_folder",
    "steel.commands.models",
    "steel.commands.predictions",
    "data_prep.__main__",
    "data_prep.write",
    "train.__main__",
    "data_prep.pseudo_labels.__main__",
)


def imports_of(path: Path) -> set[str]:
    """Modules that a file imports, at its top and inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` names a module, `from package.module import function` one before the import.
            found |= {node.module if "." in node.module else f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(package: str) -> list[tuple[str, set[str]]]:
    """(module, what it imports of this project) for all modules of a package."""
    modules = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        own = {i for i in imports_of(path) if i.split(".")[0] in ("steel", "data_prep", "train", "tests", "bench")}
        modules.append((name, own))
    assert modules
    return modules


@pytest.mark.parametrize(
    ("package", "allowed"), [("steel", {"steel"}), ("data_prep", {"steel", "data_prep"}), ("train", {"steel", "train"})]
)
def test_packages_import_only_what_they_may(package: str, allowed: set[str]) -> None:
    for name, own in ours(package):
        foreign = {i for i in own if i.split(".")[0] not in allowed}
        assert not foreign, f"{name} imports {foreign}"


def test_leaves_import_nothing_above_them() -> None:
    modules = dict(ours("steel"))
    for leaf, allowed in LEAVES.items():
        assert modules[leaf] <= allowed, f"{leaf} imports {modules[leaf] - allowed}"


def test_layers_of_the_library_point_downwards() -> None:
    rank = {layer: i for i, layer in enumerate(LAYERS)}
    modules = ours("steel")
    assert {parts[1] for name, _ in modules if len(parts := name.split(".")) > 1} == set(LAYERS)
    for name, own in modules:
        if name == "steel":  # hands `Predictor` on
            continue
        for imported in own - {"steel.__version__"}:
            assert rank[imported.split(".")[1]] <= rank[name.split(".")[1]], f"{name} imports {imported}"


def test_webdataset_writes_and_nothing_else() -> None:
    """It is an extra's; the base install reads shards without it, and so does training."""
    users = {
        path.relative_to(ROOT).as_posix()
        for package in ("steel", "train", "data_prep")
        for path in (ROOT / package).rglob("*.py")
        if any(name.split(".")[0] == "webdataset" for name in imports_of(path))
    }
    assert users == {"data_prep/shard_file.py"}


def test_reading_scoring_and_help_need_no_torch() -> None:
    code = f"import sys, {', '.join(TORCH_FREE)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_predictor_without_torch_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("steel.inference")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"steel\.Predictor needs torch: pip install .*; steel\.load_predictor takes"):
        _ = steel.Predictor


@pytest.mark.slow
def test_the_wheel_holds_steel_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        assert "steel/labels/rle.py" in archive.namelist()
        entry = next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert "steel = steel.__main__:main" in archive.read(entry).decode()
    assert {top for top in tops if not top.endswith(".dist-info")} == {"steel"}
