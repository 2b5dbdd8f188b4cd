"""qconfig dicts, hybrid dicts and observers with keys, names and values that fit badly."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from torch import nn

import hqc
from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.material import Net, Stubbed, image, odd_text, odd_value
from hqc import quantization as q

_NAMES = ("conv", "head", "", "con", "conv.x", "re:.*", "re:(", "re:" + "(a+)+" * 6 + "$", "conv\n", "*", "class")
_OBSERVERS = (
    q.MinMaxObserver, q.PerChannelMinMaxObserver, q.MovingAverageMinMaxObserver, q.CalibObserver, q.KLObserver, q.MSEObserver,
    q.PercentileObserver, q.MixObserver, q.FixedScaleObserver, q.NoopObserver,
)  # fmt: skip
_OPTIONS = ("dtype", "ch_axis", "averaging_constant", "percentile", "scale", "zero_point", "bins", "name", "sync", "nonsense")


@kind("configuration")
def make(generator: random.Random, folder: Path) -> Attempt:
    """A model compiled, prepared or explained with the dicts."""
    qconfig, hybrid = _qconfig_dict(generator), _hybrid_dict(generator)
    given: dict[str, Any] = {}
    if generator.random() < 0.7:
        given["qconfig_dict"] = qconfig
    if generator.random() < 0.6:
        given["hybrid_dict"] = hybrid
    draw = generator.randrange(3)

    def attempt() -> object:
        hqc.set_march("bayes")
        if draw == 0:
            return hqc.compile(Net(), image(), march="bayes", calibration_data=[image()], **given).simulate(image())
        if draw == 1:
            return q.prepare_qat_fx(Stubbed(), **{"qconfig_dict": {"": q.get_default_qat_qconfig()}, "hybrid": True, **given})(
                image()
            )
        return str(hqc.explain(Net(), image(), march="bayes", **given))

    return attempt


def _qconfig_dict(generator: random.Random) -> Any:
    found: dict[Any, Any] = {}
    for _ in range(generator.randrange(4)):
        match generator.randrange(4):
            case 0:
                found[""] = _qconfig(generator)
            case 1:
                found["module_name"] = _pairs(generator, _NAMES)
            case 2:
                found["module_type"] = _pairs(generator, (nn.Conv2d, nn.Linear, nn.Module, "Conv2d", 3, None))
            case 3:
                found[generator.choice((odd_text(generator), 3, None, "module", "object_type"))] = odd_value(generator)
    return found if generator.random() < 0.95 else odd_value(generator)


def _pairs(generator: random.Random, keys: tuple[Any, ...]) -> Any:
    pairs = [(generator.choice(keys), _qconfig(generator)) for _ in range(generator.randrange(3))]
    return generator.choice(
        (lambda: pairs, lambda: dict(pairs), lambda: [key for key, _ in pairs], lambda: odd_value(generator))
    )()


def _qconfig(generator: random.Random) -> Any:
    draw = generator.random()
    if draw < 0.25:
        return generator.choice((q.get_default_qat_qconfig, q.get_default_calib_qconfig, q.get_default_lsq_qconfig))()
    if draw < 0.35:
        return odd_value(generator)
    return _Later(generator)()


class _Later:
    """A qconfig of fake quants with drawn observers and options; drawn when the model is prepared, as the user's line would be."""

    def __init__(self, generator: random.Random) -> None:
        self.options = {
            name: self._value(generator, name) for name in generator.sample(_OPTIONS, generator.choice((0, 1, 1, 2)))
        }
        self.observer = generator.choice(_OBSERVERS)
        self.weight = generator.choice((None, q.FakeQuantize.with_args(observer=q.PerChannelMinMaxObserver, ch_axis=0)))

    @staticmethod
    def _value(generator: random.Random, name: str) -> Any:
        usual = {"dtype": ("qint8", "qint16", "float32", "qint32"), "ch_axis": (-1, 0, 1, 9), "averaging_constant": (0, 0.5, 2),
                 "percentile": (0, 50, 99.9, 100, 101), "scale": (0.1, 0, -1, 1e-45, 1e38), "zero_point": (0, 1)}  # fmt: skip
        return generator.choice(usual[name]) if name in usual and generator.random() < 0.7 else odd_value(generator)

    def __call__(self) -> Any:
        try:
            return q.QConfig(q.FakeQuantize.with_args(observer=self.observer, **self.options), self.weight)
        except hqc.HqcError:
            return None


def _hybrid_dict(generator: random.Random) -> Any:
    found: dict[Any, Any] = {}
    for _ in range(generator.randrange(4)):
        key = generator.choice(("module_name", "module_type", "node_name", "op", "cpu", "bpu", "CPU", 3, odd_text(generator)))
        entries: Any = [
            generator.choice((*_NAMES, "softmax", nn.Conv2d, ("softmax", "int16"), ("softmax", 3), 3, None)) for _ in range(2)
        ]
        if key in ("cpu", "bpu") and generator.random() < 0.8:
            entries = {generator.choice(("op", "module_name", "module_type", "x")): entries}
        found[key] = entries if generator.random() < 0.85 else odd_value(generator)
    return found if generator.random() < 0.95 else odd_value(generator)
