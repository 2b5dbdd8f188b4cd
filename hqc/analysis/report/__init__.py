"""One self-contained HTML file about a compiled model: picture, table, reasons, errors, and the IR after every pass."""

from hqc.analysis.report.collect import collect
from hqc.analysis.report.page import notebook_html, render, write_report

__all__ = ["collect", "notebook_html", "render", "write_report"]
