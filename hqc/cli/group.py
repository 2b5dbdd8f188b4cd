"""The group `hqc`: its commands are the modules of `hqc.cli.commands`, imported when they are asked for."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, cast

import click

import hqc.cli.commands
from hqc.cli.edge import explained
from hqc.cli.language import Context, choose, tr, translated
from hqc.language import use

MODELS = (
    "MODEL: FILE.py:NAME or package.module:NAME, a class, a function or a module; with arguments, NAME(width=32). Or FILE.onnx, "
    "FILE.pt2 (an exported program), FILE.hqc (a dump from before placement)."
)


class Group(click.Group):
    """Finds its commands as files, and turns whatever they raise into one line and an exit status (`hqc.cli.edge`).

    `hqc/cli/commands/some_name.py` is `hqc some-name`; the module's `command` is the click command.
    """

    context_class = Context

    def list_commands(self, ctx: click.Context | None = None) -> list[str]:
        """Names of all commands, sorted."""
        return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(hqc.cli.commands.__path__))

    def get_command(self, ctx: click.Context | None, name: str) -> click.Command | None:
        """The command of this name, or None."""
        if name not in self.list_commands():
            return None
        found = importlib.import_module(f"hqc.cli.commands.{name.replace('-', '_')}").command
        assert isinstance(found, click.Command) and found.name == name, f"hqc.cli.commands.{name} holds no command of its name"
        if any(param.name == "model" for param in found.params):
            found.epilog = MODELS
        found.context_class = Context
        return translated(found)

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's; the language is that of the command line for as long as it runs."""
        try:
            return super().main(*args, **extra)
        finally:
            use(None)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click's; the language comes first, so that help is in it. No file's name holds a NUL, and click stumbles over one."""
        choose(args)
        if any("\0" in word for word in args):
            raise click.UsageError(tr("the command line holds a NUL character"))
        return super().make_context(info_name, args, parent, **extra)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help page in the language in force."""
        click.Group.format_help(cast(click.Group, translated(self)), ctx, formatter)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """All options, with their help in the language in force."""
        return [*translated(self).params, *filter(None, [self.get_help_option(ctx)])]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that `ctx` names."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except (Exception, KeyboardInterrupt) as error:
            ctx.exit(explained(error))
