"""The classes of prepared and converted models. `GraphModuleWithAttr` is what both are kinds of: a module with the user's attributes."""

from hqc.lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "hqc.workflow.prepared": ("GraphModuleWithAttr", "ObservedGraphModule"),
        "hqc.workflow.convert": ("QuantizedGraphModule",),
    },
)
