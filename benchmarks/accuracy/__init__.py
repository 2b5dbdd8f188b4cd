"""Networks that are hard to quantize, trained here on data that ships with scikit-learn, and other quantizers to compare with."""
