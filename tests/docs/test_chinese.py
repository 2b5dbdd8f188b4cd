"""Sentences in Chinese: whatever they are composed of, wherever they have been, and only where a person reads them."""

from __future__ import annotations

import json
import pickle
import traceback
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import hqc
from hqc import language
from hqc.cli import main
from hqc.errors import InputError, QConfigError
from hqc.ir import Reason
from hqc.language import catalogue, in_force, said, use
from hqc.language.phrases import Phrase, Phrases

NAMES = st.text("abcxyz_.0123456789", min_size=1, max_size=8)


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(language.VARIABLE, raising=False)
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    yield
    use(None)


def test_a_reason_of_four_parts() -> None:
    reason = Reason("kernel height x width x channels at most 65536 on bayes", "73728", "65536", "bernoulli runs it")
    assert said(str(reason), "zh") == "卷积核的高 x 宽 x 通道最多 65536(bayes):73728,上限 65536(bernoulli 可以运行它)"


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("there is no file nofile.py", "没有文件 nofile.py"),
        ("net.py:3: the shape of x must be known here; give example_inputs so that sizes are known",
         "net.py:3: 这里必须知道 x 的形状;请给出 example_inputs,使尺寸已知"),
        ("no operation of the model is called 'con'; did you mean conv or cat?", "模型中没有名为 'con' 的算子;是否想写 conv 或 cat?"),
        ("3 values cross between the devices", "3 个值在设备之间传递"),
        ("a cannot run on the BPU of bayes; pass hybrid=True to run them on the CPU:\n  a: not on the BPU",
         "a 不能在 bayes 的 BPU 上运行;要让它们在 CPU 上运行,请传入 hybrid=True:\n  a: 不在 BPU 上"),
        ("layer.0.conv", "layer.0.conv"),
        ("output", "output"),  # may be a name
        ("", ""),
    ],
)  # fmt: skip
def test_messages(english: str, chinese: str) -> None:
    assert said(english, "zh") == chinese
    assert said(english) == english


@given(NAMES, NAMES, NAMES)
def test_what_stands_in_the_places_stays(one: str, two: str, three: str) -> None:
    found = said(f"{one}: input {two!r} must be a tensor or an array, got {three}", "zh")
    assert found == f"{one}: 输入 {two!r} 必须是张量或数组,实际为 {three}"


@given(st.sampled_from(sorted(catalogue())), st.lists(NAMES, min_size=12, max_size=12))
def test_every_template_is_recognized(template: str, values: list[str]) -> None:
    phrase = Phrase.of(template, catalogue()[template])
    if not all(name.isdigit() for name in phrase.places) or not phrase.letters:
        return
    found = phrase.values(template.format(*values))
    assert found is not None and template.format(*found) == template.format(*values)
    if phrase.letters > 12 and "\n" not in template:
        assert said(template.format(*values), "zh") != template.format(*values) or template == phrase.chinese


def test_of_several_readings_the_fullest_counts() -> None:
    phrases = Phrases(
        {"{0} of {1}": "{1} 的 {0}", "the size of {0}": "{0} 的尺寸", "the size of {0} is {1}": "{0} 的尺寸为 {1}"}
    )
    assert phrases.said("the size of x is 3") == "x 的尺寸为 3"
    assert phrases.said("'the size of x'") == "'the size of x'", "what is quoted is the user's"


def test_the_variable_chooses_for_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_force() == "en"
    monkeypatch.setenv(language.VARIABLE, "zh_CN.UTF-8")
    assert in_force() == "zh"
    use("en")
    assert in_force() == "en"
    with pytest.raises(ValueError, match="hqc speaks en and zh, not 'fr'"):
        use("fr")


def test_an_error_stays_english_for_programs_and_has_chinese_for_people() -> None:
    use("zh")
    error = InputError("there is no file x.py")
    assert str(error) == "there is no file x.py" == str(pickle.loads(pickle.dumps(error)))
    assert getattr(error, "__notes__", None) == ["没有文件 x.py"]
    shown = "".join(traceback.format_exception_only(error))
    assert ("没有文件 x.py" in shown) == hasattr(error, "add_note"), "Python shows notes from 3.11 on"
    assert not hasattr(QConfigError("as before"), "__notes__") or in_force() == "zh"
    use(None)
    assert not hasattr(InputError("there is no file x.py"), "__notes__")


NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.wide = nn.Conv2d(8, 8, 3, groups=8, dilation=40, padding=40)

    def forward(self, x):
        return torch.sort(self.wide(self.conv(x)), -1).values

example_inputs = torch.rand(1, 3, 16, 16)
"""


@pytest.fixture
def net(tmp_path, monkeypatch: pytest.MonkeyPatch) -> str:  # type: ignore[no-untyped-def]
    (tmp_path / "zh_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return "zh_net.py:Net"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code in (0, 1), result.output
    return result.output


def test_explain_and_check_in_chinese(net: str) -> None:
    shown = run("--lang", "zh", "explain", net, "--march", "bayes", "--all")
    assert "bayes 上的放置" in shown and "整体在 CPU 上运行" in shown and "dilation 最多 16x16:40x40,上限 16x16" in shown
    left = [line for line in shown.splitlines() if {"the", "is", "of", "with"} & set(line.split())]
    assert left == [], "left in English"
    shown = run("--lang", "zh", "check", net, "--march", "bayes", "--settings")
    assert "生效的量化设置" in shown and "算子" in shown
    assert "错误:" in run("--lang", "zh", "explain", "zh_net.py:Nett") and in_force() == "en"


def test_json_is_english_in_every_language(net: str) -> None:
    asked = ("explain", net, "--march", "bayes", "--json")
    assert json.loads(run("--lang", "zh", *asked)) == json.loads(run("--lang", "en", *asked))


def test_a_printed_explanation_is_in_the_language_in_force() -> None:
    import torch

    explanation = hqc.explain(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Softsign()), torch.rand(1, 3, 8, 8), march="bayes"
    )
    english = str(explanation)
    use("zh")
    shown = str(explanation)
    assert shown != english and "个算子在 BPU 上" in shown and "训练后量化" in shown
    use(None)
    assert str(explanation) == english
