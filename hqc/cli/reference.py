"""docs/cli.md and docs/cli.zh.md, written from the commands themselves: `python -m hqc.cli.reference docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

import hqc.cli.edge
from hqc.cli import main
from hqc.cli.language import Context, key_of, tr
from hqc.files import write_file
from hqc.language import use

INTRODUCTION = {
    "en": """# Command line

*[中文](cli.zh.md)*

`hqc COMMAND MODEL [OPTIONS]`, or `python -m hqc`. Results go to standard output, remarks and progress to standard error. `--json` prints
one JSON object, in English in every language. `hqc -v COMMAND` shows what the library logs, `hqc --lang zh COMMAND` is in Chinese, with
reasons, errors and tables (by itself where `HQC_LANG` or the locale says so). Data and its options:
[calibration data](calibration_data.md).

`MODEL` is `FILE.py:NAME` or `package.module:NAME`, where `NAME` is a class, a function or a module; with arguments, `NAME(width=32)`; a
function may return `(model, example_inputs)`. `FILE.onnx`, `FILE.pt2` (an exported program) and `FILE.hqc` (a dump from before placement)
are models too. Weights come from `--checkpoint`; nothing in a checkpoint is executed.

## Exit status

{statuses}

In CI: `hqc explain MODEL --march x5 --max-cpu-nodes 3` and `hqc run MODEL --march x5 --calibration photos/ --min-sqnr 20` fail where a
bound is not met.

## Shell completion

bash: `eval "$(_HQC_COMPLETE=bash_source hqc)"` in `~/.bashrc`; zsh: `eval "$(_HQC_COMPLETE=zsh_source hqc)"` in `~/.zshrc`; fish:
`_HQC_COMPLETE=fish_source hqc | source` in `~/.config/fish/completions/hqc.fish`.
""",
    "zh": """# 命令行

*[English](cli.md)*

`hqc COMMAND MODEL [OPTIONS]`,或 `python -m hqc`。结果写到标准输出,说明和进度写到标准错误。`--json` 输出一个 JSON 对象。
`--json` 在任何语言下都是英文。`hqc -v COMMAND` 显示库的日志,`hqc --lang zh COMMAND` 使用中文,包括原因、错误和表格
(`HQC_LANG` 或系统区域为中文时自动)。数据及其选项见[校准数据](calibration_data.zh.md)。

`MODEL` 是 `FILE.py:NAME` 或 `package.module:NAME`,`NAME` 是类、函数或模块;可带参数,如 `NAME(width=32)`;
函数可以返回 `(model, example_inputs)`。`FILE.onnx`、`FILE.pt2`(导出的程序)和 `FILE.hqc`(放置之前的 dump)也是模型。
权重由 `--checkpoint` 给出;其中的任何内容都不会被执行。

## 退出状态

| 状态 | 含义 |
|---|---|
| 0 | 成功 |
| 1 | hqc 拒绝:模型、选项、文件或数据,一句话说明;或模型自身的代码出错 |
| 2 | 命令行无法理解 |
| 3 | hqc 的缺陷;traceback 写在文件中 |
| 4 | 给定的界限(`--min-sqnr`、`--max-cpu-nodes`、`--target`、`--strict`)未达到 |
| 130 | 被中断 |

在 CI 中:`hqc explain MODEL --march x5 --max-cpu-nodes 3` 和 `hqc run MODEL --march x5 --calibration photos/ --min-sqnr 20`
在界限未达到时失败。

## Shell 补全

bash:在 `~/.bashrc` 中写 `eval "$(_HQC_COMPLETE=bash_source hqc)"`;zsh:在 `~/.zshrc` 中写 `eval "$(_HQC_COMPLETE=zsh_source hqc)"`;fish:在
`~/.config/fish/completions/hqc.fish` 中写 `_HQC_COMPLETE=fish_source hqc | source`。
""",
}
HEADS = {"en": ("option", "meaning", "default"), "zh": ("选项", "含义", "默认")}


def page(lang: str) -> str:
    """The page in one language."""
    use(lang)
    try:
        statuses = (hqc.cli.edge.__doc__ or "").split("\n\n", 1)[1].strip()
        parts = [
            INTRODUCTION[lang].replace("{statuses}", statuses).strip(),
            "## hqc",
            tr(key_of(main.help)),
            *_options(main, lang),
        ]
        for name in main.list_commands():
            command = main.get_command(None, name)
            assert command is not None
            parts += [f"## hqc {name}", tr(key_of(command.help)), *_options(command, lang)]
        return "\n\n".join(parts) + "\n"
    finally:
        use(None)


def _options(command: click.Command, lang: str) -> Iterator[str]:
    context = Context(command)
    arguments = [param.make_metavar(context) for param in command.params if isinstance(param, click.Argument)]
    if arguments:
        yield f"`hqc {command.name} {' '.join(arguments)}`"
    rows = [param for param in command.params if isinstance(param, click.Option)]
    lines = [f"| {' | '.join(HEADS[lang])} |", "|---|---|---|"]
    for option in rows:
        metavar = "" if option.is_flag else f" {option.make_metavar(context)}".replace("|", "\\|")
        default = f"`{option.default}`" if option.show_default else ""
        lines.append(f"| `{', '.join(option.opts)}{metavar}` | {tr(key_of(option.help))} | {default} |")
    yield "\n".join(lines)


if __name__ == "__main__":
    for lang, file in (("en", "cli.md"), ("zh", "cli.zh.md")):
        write_file(Path(sys.argv[1]) / file, page(lang).encode())
