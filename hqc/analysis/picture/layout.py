"""Graphviz as the WebAssembly build that the report's page carries, run in an embedded V8 (`mini-racer`).

One layout engine for pages and files: it measures text by tables of its own, so that a picture has the same bytes on every machine, and
it needs no library of the operating system.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, cast

from hqc.distribution import install_command
from hqc.errors import InputError

if TYPE_CHECKING:
    from py_mini_racer import JSPromise, MiniRacer

# What the build expects of a browser; V8 alone has none of it. Nothing here decides how a picture looks.
_SURROUNDINGS = """
globalThis.location = {href: "file:///viz.js"};
globalThis.URL = class { constructor(href) { this.href = href; } };
globalThis.console = {log() {}, warn() {}, error() {}};
globalThis.performance = {now: () => 0};
globalThis.crypto = {getRandomValues: bytes => bytes.fill(1)};
globalThis.TextDecoder = class {
  decode(bytes) {
    let text = "";
    for (const byte of bytes) text += "%" + byte.toString(16).padStart(2, "0");
    return decodeURIComponent(text);
  }
};
globalThis.TextEncoder = class {
  encode(text) { return Uint8Array.from(unescape(encodeURIComponent(text)), character => character.charCodeAt(0)); }
};
"""

_ADDRESSES = 3 << 39
"""What V8 reserves on a 64-bit system (1.4 TiB measured), rounded up."""


def laid_out(dot: str) -> str:
    """The SVG text of a graph in the DOT language; `InputError` where mini-racer is missing, cannot be loaded, or has no room."""
    _check_addresses()
    # In a thread of its own: where an event loop runs (a notebook's), the engine would wait for that loop, which waits for us.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_laid_out, dot).result()


def _laid_out(dot: str) -> str:
    with _engine() as engine:
        engine.eval(_SURROUNDINGS)
        engine.eval(_graphviz())
        promise = engine.eval("Viz.instance().then(viz => { globalThis.viz = viz; return true; })")
        cast("JSPromise", promise).get()
        return str(engine.call("(text => viz.renderString(text, {format: 'svg'}))", dot))


def _engine() -> MiniRacer:
    try:
        from py_mini_racer import LibNotFoundError, MiniRacer
    except (ImportError, OSError) as error:
        raise InputError(
            f"drawing needs mini-racer, which runs Graphviz; install it with: {install_command('report')} ({error})"
        ) from None
    try:
        return MiniRacer()  # loads the library
    except (LibNotFoundError, OSError) as error:
        raise InputError(f"drawing needs mini-racer, and this system cannot load it: {error}") from None


def _check_addresses() -> None:
    """V8 ends the process where it cannot reserve what it wants; nothing of it is used."""
    try:
        import resource
    except ImportError:  # systems without such limits
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < _ADDRESSES:
        raise InputError(
            f"drawing runs Graphviz in V8, which reserves {_ADDRESSES >> 30:,} GiB of addresses (not memory); this process may have "
            f"{limit >> 30:,} GiB: lift the limit (ulimit -v unlimited)"
        )


@cache
def _graphviz() -> str:
    return resources.files("hqc.analysis").joinpath("report", "vendor", "viz.js").read_text(encoding="utf-8")
