"""One self-contained HTML file about a compiled model: picture, table, reasons, errors, and the IR after every pass.

Saved models and explanations have one too, with what they know. `collect` reads torch; nothing else here does.
"""

from hqc.analysis.report.page import notebook_html, render, write_report
from hqc.analysis.report.subjects import page_of

__all__ = ["notebook_html", "page_of", "render", "write_report"]
