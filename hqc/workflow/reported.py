"""The door to the report: what can be shown as one HTML file, here and in notebooks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from hqc.checked import checked, explained


@explained
class Reported:
    """Mixin of compiled models, saved models and explanations."""

    @checked
    def report(
        self,
        path: str | os.PathLike[str],
        *,
        measure: bool = True,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Path:
        """Write one self-contained HTML file: the graph as a picture, a table of operations, reasons, scales, and what else is known.

        Of a compiled model that is errors, histograms and times on a calibration sample, advice, four chips side by side, and the IR
        after every pass with diffs. Of a saved model, times on a stored sample and its graphs; of an explanation, which has no scales
        yet, advice, chips and passes. `measure=False` runs nothing. `progress`: gets `(steps done, all)`. Returns the path. `InputError`
        when the extra `report` is not installed or the file cannot be written.
        """
        from hqc.analysis.report import write_report

        return write_report(cast(Any, self), path, measure=measure, progress=progress)

    def _repr_html_(self) -> str:
        """The report, in a frame, for notebooks; without measurements, so that showing it runs nothing."""
        from hqc.analysis.report import notebook_html

        return notebook_html(cast(Any, self))
