"""What a stranger installs: a wheel built from the sdist holds every room and runs outside the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "hqc", "passes", "backends")


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out, tree = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("tree")
    # A copy: setuptools stages the sdist inside the tree, where two test workers would remove each other's files.
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    # --no-isolation: the tests run without network. The default builds the sdist, then the wheel from it.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(tree), cwd=out)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_every_module_of_the_tree(wheel: Path) -> None:
    tree = {
        str(path.relative_to(ROOT / "hqc"))
        for room in (ROOT / "hqc", ROOT / "hqc" / "passes", ROOT / "hqc" / "backends")
        for path in room.rglob("*.py")
    }
    packed = {name.removeprefix("hqc/") for name in zipfile.ZipFile(wheel).namelist() if name.startswith("hqc/")}
    assert not sorted(tree - packed)
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith(("passes/", "backends/", "tests/"))]


def test_installed_wheel_parses_and_runs_passes_outside_the_tree(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hqc, hqc.passes, hqc.backends.bpu, hqc.backends.onnx, hqc.march\n"
        "assert hqc.__file__.startswith(sys.argv[1]), hqc.__file__\n"
        "assert hqc.march.get_spec('bayes').rules\n"
        "print(hqc.passes.parse_pipeline('canonicalize'))\n"
    )
    assert run(sys.executable, "-I", "-c", script, str(site), cwd=tmp_path).strip() == "canonicalize"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("hqc", ("torch", "onnx", "onnxruntime")),
        ("hqc.ir", ("torch", "onnx", "onnxruntime")),
        ("hqc.workflow.pipelines", ("torch", "onnx", "onnxruntime")),
        ("hqc.workflow.explanation", ("torch", "onnx", "onnxruntime")),
        ("hqc.march", ("torch", "onnx", "onnxruntime")),
        ("hqc.backends.bpu", ("torch",)),
        ("hqc.backends.onnx", ("torch",)),
        ("hqc.cli", ("torch", "onnx", "onnxruntime")),
    ],
)
def test_rooms_import_without_what_they_do_not_need(module: str, absent: tuple[str, ...], tmp_path: Path) -> None:
    script = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    assert run(sys.executable, "-c", script, cwd=tmp_path).strip() == "[]"


def test_nobody_is_told_to_install_the_other_project_called_hqc() -> None:
    wrong = re.compile(r"(pip|uv|poetry|pipx)\s+(install|add)\s[^\n]*?['\"` ]hqc(?![\w-])(?=\[|['\"`\s]|$)", re.MULTILINE)
    assert (
        wrong.search("pip install 'hqc[fast]'")
        and wrong.search("pip install -U hqc")
        and not wrong.search("pip install 'hqc-compiler[x]'")
    )
    places = [
        ROOT / name
        for name in ("hqc", "passes", "backends", "docs", "examples", "README.md", "README.zh.md", "CONTRIBUTING.md")
    ]
    files = [
        file
        for place in places
        for file in ([place] if place.is_file() else place.rglob("*"))
        if file.suffix in (".py", ".md", ".j2")
    ]
    assert len(files) > 100
    assert [str(file) for file in files if wrong.search(file.read_text(encoding="utf-8"))] == []
