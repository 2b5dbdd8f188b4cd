"""Data as users have it, for calibration, comparison and verification: pictures, arrays, raw files, loaders.

    samples = load_samples("photos/", compiled.graph, preprocessing=Preprocessing(mean=..., std=...), samples=200)
    for batch in samples.batches():          # {"input name": array [batch, ...]}
        compiled.simulate(batch)

NumPy only; torch and Pillow are imported where a file asks for them.
"""

from hqc.data.inputs import InputSpec, input_specs
from hqc.data.preprocessing import Preprocessing
from hqc.data.samples import DataSpec, Samples, load_samples

__all__ = ["DataSpec", "InputSpec", "Preprocessing", "Samples", "input_specs", "load_samples"]
