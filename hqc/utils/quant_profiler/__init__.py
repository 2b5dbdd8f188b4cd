"""Analyses of quantized models, under the reference's names; `hqc.analysis.compare` is the one that says what each operation costs."""

from hqc.lazy import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        f"{__name__}.deploy_device": ("check_deploy_device",),
        f"{__name__}.similarity": ("featuremap_similarity",),
        f"{__name__}.features": ("get_raw_features", "profile_featuremap"),
        f"{__name__}.weights": ("compare_weights",),
        f"{__name__}.checks": ("check_qconfig", "check_unfused_operations", "get_module_called_count"),
        f"{__name__}.scripts": ("compare_script_models", "script_profile"),
        f"{__name__}.memory": ("show_cuda_memory_consumption",),
        f"{__name__}.everything": ("model_profiler", "set_preserve_qat_mode"),
    },
)
