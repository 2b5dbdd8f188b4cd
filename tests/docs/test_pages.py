"""The pages a stranger follows: their commands and snippets run as printed, their output is real, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from hqc.cli import main
from hqc.workflow.pipelines import deploy_pipeline, explain_pipeline, prepare_pipeline

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
READMES = (ROOT / "README.md", ROOT / "README.zh.md")
PAGES = (*READMES, *sorted(DOCS.glob("*.md")))


def blocks(page: Path, language: str) -> list[str]:
    """Fenced code of exactly this language (a word behind the language, such as `no-run`, makes another one)."""
    fences = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [code for found, code in fences if found == language]


def without_comments(code: str) -> str:
    return re.sub(r" *#.*", "", code)


def commands() -> list[str]:
    """`hqc` command lines of the README's table, in order."""
    return re.findall(r"^\| `(hqc [^`]+)` \|", READMES[0].read_text(encoding="utf-8"), re.MULTILINE)


def run(command: str) -> str:
    result = CliRunner().invoke(main, shlex.split(command)[1:])
    assert result.exit_code == 0, f"{command}\n{result.output}{result.exception!r}"
    return result.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the README's net.py, which Python can import."""
    (tmp_path / "net.py").write_text(blocks(READMES[0], "python")[0])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "net", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def test_the_readme_shows_real_output(folder: Path) -> None:
    (session,) = [block for block in blocks(READMES[0], "") if block.startswith("$ hqc")]
    command, printed = session.removeprefix("$ ").split("\n", 1)
    trimmed = [line.rstrip() for line in run(command).splitlines()]
    assert [line for line in trimmed if line] == [line for line in printed.splitlines() if line]


def test_the_readme_snippet_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(compile(blocks(READMES[0], "python")[1], "README.md", "exec"), names)
    assert (folder / "model.onnx").is_file() and (folder / "model.yaml").is_file()
    assert getattr(names["outputs"], "shape", None) == (5, 10, 32, 32)
    assert "placed on the CPU by request: module_name 'head' -> cpu" in capsys.readouterr().out


def test_every_command_of_the_readme_runs(folder: Path) -> None:
    listed = commands()
    assert {command.split()[1] for command in listed} == set(main.list_commands(None))
    for command in listed:
        if command != "hqc demo":  # trains for half a minute; `make demo` is run on its own
            assert run(command)
    assert (folder / "out" / "net.onnx").is_file() and (folder / "out" / "net.html").is_file()


def test_both_readmes_say_the_same_in_the_same_order() -> None:
    english, chinese = (page.read_text(encoding="utf-8") for page in READMES)
    for language in ("python", ""):
        pair = [[without_comments(code) for code in blocks(page, language)] for page in READMES]
        assert pair[0] == pair[1] and pair[0]
    assert [without_comments(code) for code in blocks(READMES[0], "sh")] == [
        without_comments(code) for code in blocks(READMES[1], "sh")
    ]

    def shape(text: str) -> list[str]:
        return [re.match(r"#+|\|", line).group() for line in text.splitlines() if re.match(r"#+ |\|", line)]  # type: ignore[union-attr]

    assert shape(english) == shape(chinese)
    named = [
        sorted(set(re.findall(r"`([^`\n]+)`", text.split("```\n")[-1])) | set(re.findall(r"\]\((docs/[^)]+)\)", text)))
        for text in (english, chinese.replace(".zh.md)", ".md)"))
    ]
    assert named[0] == named[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}, target


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [READMES[0]]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for name in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in name and (page.parent / name).exists():
                todo.append((page.parent / name).resolve())
    assert set(PAGES) <= reached


def test_architecture_shows_the_pipelines_that_run() -> None:
    page = " ".join((DOCS / "architecture.md").read_text(encoding="utf-8").split())

    def listed(title: str, pattern: str = r"`([^`]+)`") -> list[str]:
        found = re.search(rf"\* \*\*{title}\*\* .*?{pattern}", page)
        assert found is not None
        return re.split(r", (?![^{]*\})", found.group(1))

    def passes(pipeline: object) -> list[str]:
        steps = re.findall(r"([a-z-]+)(?:\{([^}]*)\})?", str(pipeline))
        forms = [(name, re.search(r"form=\w+", options)) for name, options in steps]
        named = [f"{name}{{{form.group()}}}" if form else name for name, form in forms]
        return ["insert-boundaries{form=qat}" if name == "insert-boundaries" else name for name in named]  # the default

    prepare = passes(prepare_pipeline())
    assert listed("prepare") == prepare
    assert prepare == passes(explain_pipeline())
    assert listed("deploy") == passes(deploy_pipeline())


def test_placement_snippets_run() -> None:
    import torch
    from torch import nn

    from hqc.frontend.fx import lower
    from hqc.passes.overrides import parse_hybrid_dict
    from hqc.workflow.explain import explain

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage1 = nn.Sequential()
            self.stage1.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.stage1.conv(x).softmax(1)

    first, second = blocks(DOCS / "placement.md", "python")
    names: dict[str, object] = {"nn": nn}
    exec(first, names)
    assert len(parse_hybrid_dict(names["hybrid_dict"])) == 8  # type: ignore[arg-type]
    example = torch.zeros(1, 3, 8, 8)
    lowered = lower(Net(), example)
    names |= {"graph": explain(Net(), example, march="bayes").graph, "lowered_graph": getattr(lowered, "graph", lowered)}
    names |= {"model": Net(), "x": example}
    exec(second, names)
    assert names["report"].device_of("stage1.conv") == "bpu"  # type: ignore[attr-defined]


def test_the_ir_snippet_runs(folder: Path) -> None:
    from hqc.ir import parse

    text = "graph @small stage=lowered {\n  input %x: f32[1,8]\n  %y = relu(%x)\n  output %y\n}\n"
    names: dict[str, object] = {"graph": parse(text)}
    (snippet,) = blocks(DOCS / "ir.md", "python")
    exec(snippet, names)
    assert str(names["graph"]) == names["text"] == str(parse(text)) and (folder / "net.hqc").is_file()


def test_the_onnx_snippet_runs(folder: Path) -> None:
    import torch
    from net import Net

    import hqc

    inputs = torch.rand(1, 3, 64, 64)
    compiled = hqc.compile(Net(), inputs, march="bayes", calibration_data=[inputs])
    names: dict[str, object] = {"graph": compiled.graph, "fake_quant": compiled.references[0]}
    exec(blocks(DOCS / "onnx.md", "python")[0], names)
    assert (folder / "net.onnx").is_file()
