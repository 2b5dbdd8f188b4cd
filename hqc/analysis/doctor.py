"""What this installation is and can do: `hqc doctor` and `hqc.show_versions()`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

from hqc.backends.bpu.engines.report import chosen_engine, engine_statuses, processor, processor_features
from hqc.backends.bpu.workers import default_threads

PACKAGES = (
    "numpy", "torch", "onnx", "onnxruntime", "numba", "llvmlite", "networkx", "safetensors", "threadpoolctl", "scikit-learn",
    "openvino",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of hqc, Python and the packages it uses; "not installed" for the absent."""
    import hqc

    found = {"hqc": hqc.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def doctor_rows() -> list[tuple[str, str]]:
    """Versions, machine, threads, and each engine with the reason why it is or is not used: name and text of each."""
    rows = [("platform", f"{platform.platform()} ({sys.executable})")]
    rows += list(versions().items())
    rows.append(("processor", f"{processor()}, {os.cpu_count()} cores, {default_threads()} for this process"))
    rows.append(("features", ", ".join(processor_features()) or "none of those that matter here"))
    rows += [
        (f"engine {status.name}", f"{'works' if status.usable else 'not used'}: {status.reason}")
        for status in engine_statuses()
    ]
    rows.append(("engine auto", f"takes {chosen_engine()} in this process"))
    return rows


def doctor_text() -> str:
    """`doctor_rows` as lines."""
    rows = doctor_rows()
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def show_versions() -> None:
    """Print versions, processor, threads and engines: what a bug report should contain."""
    sys.stdout.write(doctor_text() + "\n")
